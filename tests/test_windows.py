"""Windows are those of transformers, and answers are where their characters are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from kdpipe import windows
from kdpipe.errors import UsageError
from kdpipe.sources import Span
from kdpipe.tokenizer import Tokenizer, load_tokenizer
from kdpipe.windows import Windows, read_windows
from tests.test_tokenizer import byte_level
from tests.tiny import SENTENCES, tiny_teacher_folder

CONTEXT = " ".join(SENTENCES[:6])
PAIRS = [
    ("Nobody sleeps?", CONTEXT),
    ("Is the cat on the stove?", SENTENCES[0]),
    ("Run?", "  \u200b The  dog na\u00efvely  waits, \u200b and don't sleep.  "),
    ("Three?", ""),
    ("Is it?", "\u200b \u200b"),
    ("", SENTENCES[2]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_teacher_folder(tmp_path_factory.mktemp("teacher") / "model")


def cut(made: Windows) -> list[tuple[list[int], list[list[int]], int]]:
    """Ids, characters and the first token of type 1 of each window."""
    borders = made.rows.lengths.cumsum()[:-1]
    assert made.rows.second_at is not None
    return [
        (ids.tolist(), characters.tolist(), second)
        for ids, characters, second in zip(
            np.split(made.rows.ids, borders),
            np.split(made.characters, borders),
            made.rows.second_at.tolist(),
            strict=True,
        )
    ]


@pytest.mark.parametrize(("limit", "stride"), [(24, 0), (24, 3), (32, 12), (1000, 128)])
def test_windows_are_those_of_transformers(folder: Path, limit: int, stride: int) -> None:
    made = read_windows(load_tokenizer(folder), PAIRS, limit, stride)
    reference = AutoTokenizer.from_pretrained(folder)(
        [question for question, _ in PAIRS],
        [context for _, context in PAIRS],
        truncation="only_second",
        max_length=limit,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    wanted = []
    for row, ids in enumerate(reference["input_ids"]):
        sides, offsets = reference.sequence_ids(row), reference["offset_mapping"][row]
        characters = [
            [*offset] if side == 1 else [-1, -1]
            for side, offset in zip(sides, offsets, strict=True)
        ]
        wanted.append((ids, characters, [*reference["token_type_ids"][row], 1].index(1)))
    assert cut(made) == wanted
    assert made.question_of.tolist() == reference["overflow_to_sample_mapping"]
    assert (len(wanted) > len(PAIRS)) == (limit < 1000)


@pytest.mark.parametrize(("limit", "stride"), [(24, 0), (24, 3), (32, 12), (64, 5)])
def test_every_answer_is_found_where_its_characters_are(
    folder: Path, limit: int, stride: int
) -> None:
    tokenizer = load_tokenizer(folder)
    context = CONTEXT.replace(".", " \u200b.")
    starts = range(0, len(context), 3)
    spans = [Span(b, e) for b in starts for e in range(b + 1, min(b + 30, len(context)), 4)]
    made = read_windows(tokenizer, [("Nobody sleeps?", context)], limit, stride)
    parts = [
        [(place, {*range(*offset)}) for place, offset in enumerate(offsets) if offset[0] >= 0]
        for _, offsets, _ in cut(made)
    ]
    letters = {p for part in parts for _, covered in part for p in covered}
    whole = 0
    for span in spans:
        wanted = letters & {*range(span.begin, span.end)}
        expected = []
        for part in parts:
            places = [place for place, covered in part if covered & wanted]
            there = wanted <= {p for _, covered in part for p in covered}
            expected.append((places[0], places[-1]) if wanted and there else (0, 0))
        assert made.labels([span]) == expected, context[span.begin : span.end]
        whole += any(label != (0, 0) for label in expected)
    assert len(spans) / 2 < whole < len(spans)


def test_answers_of_several_questions_and_of_none(folder: Path) -> None:
    pairs = [("Who?", CONTEXT), ("What?", SENTENCES[2]), ("Why?", "\u200b"), ("Who?", CONTEXT)]
    made = read_windows(load_tokenizer(folder), pairs, 24, 4)
    begin = CONTEXT.index("dog")
    answers = [None, Span(4, 13), Span(0, 1), Span(begin, begin + 3)]
    assert SENTENCES[2][4:13] == "dog waits"
    labels = made.labels(answers)
    found = dict.fromkeys(range(4), 0)
    for question, label in zip(made.question_of.tolist(), labels, strict=True):
        found[question] += 1
        assert (label is None) == (question == 0)
        if question == 1:
            # [CLS] w ##h ##a ##t ? [SEP] the dog waits at the green door . [SEP]
            assert label == (8, 9)
        if question == 2:
            assert label == (0, 0)
    assert found[0] == found[3] > 2
    dogs = [label for label, of in zip(labels, made.question_of, strict=True) if of == 3]
    assert {label is not None and label[0] == label[1] for label in dogs} == {True}
    assert 1 <= sum(label != (0, 0) for label in dogs) <= 2


def test_a_long_question_is_cut_and_its_context_is_not(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert windows.LONGEST_QUESTION == 64
    for limit, kept in ((32, 16), (200, 64)):
        made = read_windows(tokenizer, [("the cat " * 90, "A dog."), ("cat", "A dog.")], limit, 1)
        (long, _, second), (short, _, _) = cut(made)
        cls, sep = short[0], short[-1]
        the, cat = tokenizer.encode(["the cat"], 9).ids[1:3].tolist()
        assert long == [cls, *[the, cat] * (kept // 2), sep, *short[3:]]
        assert second == kept + 2
        assert made.rows.lengths.max() <= limit


def test_a_family_without_token_types_and_with_blanks_in_its_tokens() -> None:
    tokenizer = byte_level("c a", "ca t", "\u0120 cat", trim=False)
    made = read_windows(tokenizer, [("cat?", "a cat \u2603 cat")], 64, 2)
    assert made.rows.second_at is not None
    assert made.rows.second_at.tolist() == made.rows.lengths.tolist()
    ((ids, characters, _),) = cut(made)
    tokens = [tokenizer.backend.id_to_token(token) for token in ids]
    assert made.labels([Span(2, 5)]) == [(tokens.index("\u0120cat"),) * 2]
    snowman = [place for place, (begin, end) in enumerate(characters) if begin <= 6 < end]
    assert len(snowman) >= 3
    assert made.labels([Span(6, 7)]) == [(snowman[0], snowman[-1])]


def test_nothing_to_read(folder: Path) -> None:
    made = read_windows(load_tokenizer(folder), [], 64, 2)
    assert (made.rows.ids.shape, made.characters.shape) == ((0,), (0, 2))
    assert made.labels([]) == []


@pytest.mark.parametrize(("limit", "stride", "room"), [(64, 29, 29), (128, 128, 61), (8, 1, 1)])
def test_windows_that_would_not_go_on(folder: Path, limit: int, stride: int, room: int) -> None:
    tokenizer: Tokenizer = load_tokenizer(folder)
    with pytest.raises(UsageError) as caught:
        read_windows(tokenizer, PAIRS, limit, stride)
    assert str(caught.value) == (
        f"doc_stride is {stride}, but windows of {limit} tokens have room for {room} of the context"
        " beside a question: lower it, or raise max_seq_length"
    )
    read_windows(tokenizer, PAIRS, limit, room - 1)
