"""Labels as tensors: every problem, rows without labels, and labels that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kdpipe.errors import ArtifactError
from kdpipe.gold import IGNORED, Gold
from kdpipe.losses.labels import IGNORED as IGNORED_BY_LOSSES
from kdpipe.parts import Problem
from kdpipe.tokenizer import Encoded
from tests.tiny import SENTENCES, tiny_tokenizer

ROWS = tiny_tokenizer().encode(SENTENCES[:4], 16)
TAGS = ("O", "B", "I")
WORDS = [
    ["cat", "stovepipe", "", "dog"],
    ["\x07", "The", "train"],
    ["late", "house", "of", "snow", "morning"],
]
"""In tokens: 1, 5, none and 1; none (a control character), 1 and 1; 1 each."""


def gold(problem: Problem, *classes: str) -> Gold:
    return Gold(problem, classes)


def refused(one: Gold, labels: list[Any], rows: Encoded = ROWS) -> str:
    with pytest.raises(ArtifactError) as caught:
        one.of(labels, rows)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_losses_leave_out_what_is_no_label_here() -> None:
    assert IGNORED == IGNORED_BY_LOSSES


def test_single_labels_are_places_among_the_classes() -> None:
    found = gold("single_label_classification", "b", "a", "7").of(["a", None, 7, "b"], ROWS)
    assert found.dtype == torch.int64
    assert found.tolist() == [1, -100, 2, 0]


def test_a_label_that_is_no_class_is_named() -> None:
    one = gold("single_label_classification", "a", "b", "c", "d", "e", "f")
    assert refused(one, ["a", "A", None, "b"]) == (
        "label 'A' is none of the 6 classes of the model (a, b, c, d, e, ...): give the head these"
        " classes, or mend the labels"
    )
    assert refused(gold("single_label_classification", "0", "1"), [0.0, 1, 1, 0]) == (
        "label '0.0' is none of the 2 classes of the model (0, 1): give the head these classes, or"
        " mend the labels"
    )


def test_sets_of_labels_are_ones_and_zeros() -> None:
    found = gold("multi_label_classification", "red", "hot", "7").of(
        [["7", "red"], [], None, ["hot", "hot"]], ROWS
    )
    assert found.dtype == torch.float32
    assert found.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [-100.0] * 3, [0.0, 1.0, 0.0]]


def test_sets_of_labels_that_are_none() -> None:
    one = gold("multi_label_classification", "red", "hot")
    assert refused(one, [["red"], "red", None, None]) == (
        "label 'red' is one value, where several belong to a row: set label_separator of the"
        " source, or the right label_column"
    )
    assert refused(one, [["red"], 3, None, None]).startswith("label 3 is one value, where several")
    assert refused(one, [["red", "blue"], None, None, None]).startswith(
        "label 'blue' is none of the 2 classes of the model (red, hot): "
    )


def test_numbers_are_themselves_and_nothing_is_nan() -> None:
    found = gold("regression", "score").of([4.5, -1, None, 0], ROWS)
    assert found.dtype == torch.float32
    assert found[[0, 1, 3]].tolist() == [4.5, -1.0, 0.0]
    assert found[2].isnan()
    assert refused(gold("regression", "score"), [1.0, "2.0", 1, 1]) == (
        "label '2.0' is no number, which a regression needs: choose the right label_column"
    )


def test_a_tag_stands_at_the_first_token_of_its_word() -> None:
    rows = tiny_tokenizer().encode_words(WORDS, 32)
    assert rows.lengths.tolist() == [9, 4, 7]
    tags = [["B", "I", "I", "O"], ["B", "O", "I"], ["O", "B", "O", "I", "O"]]
    found = gold("token", *TAGS).of(tags, rows)
    assert found.dtype == torch.int64
    first, second, third = (part.tolist() for part in found.split(rows.lengths.tolist()))
    #                CLS  cat  s    ##t   ...               dog  SEP
    assert first == [-100, 1, 2, -100, -100, -100, -100, 0, -100]
    assert second == [-100, 0, 2, -100]
    assert third == [-100, 0, 1, 0, 2, 0, -100]


def test_tags_of_many_rows_are_those_of_each_word_alone() -> None:
    tokenizer, one = tiny_tokenizer(), gold("token", *TAGS)
    words = [text.replace("o", "oz").rstrip(".").split() for text in SENTENCES]
    tags = [[TAGS[(len(word) + place) % 3] for place, word in enumerate(row)] for row in words]
    for limit in (64, 9, 3):
        rows = tokenizer.encode_words(words, limit)
        wanted = []
        for row, names in zip(words, tags, strict=True):
            pieces = [
                TAGS.index(name) if place == 0 else -100
                for word, name in zip(row, names, strict=True)
                for place in range(len(tokenizer.backend.encode(word).ids) - 2)
            ]
            wanted += [-100, *pieces[: limit - 2], -100]
        assert one.of(tags, rows).tolist() == wanted


def test_words_of_a_prompt_have_no_tags() -> None:
    rows = tiny_tokenizer().encode_words([["cat", "dog"]], 32, "the answer: ")
    found = gold("token", *TAGS).of([["B", "I"]], rows)
    assert found.tolist() == [-100, -100, -100, -100, 1, 2, -100]


def test_rows_without_tags_have_no_labels() -> None:
    rows = tiny_tokenizer().encode_words([["cat", "dog"], ["late"]], 32)
    one = gold("token", *TAGS)
    assert one.of([None, ["I"]], rows).tolist() == [-100] * 4 + [-100, 2, -100]
    assert one.of([None, None], rows).tolist() == [-100] * 7
    assert gold("token", *TAGS).of([None] * 4, ROWS).tolist() == [-100] * int(ROWS.lengths.sum())


def test_tags_that_do_not_fit() -> None:
    rows = tiny_tokenizer().encode_words([["cat", "dog"], ["late"]], 32)
    one = gold("token", *TAGS)
    assert refused(one, ["B", None], rows).startswith("label 'B' is one value, where several")
    assert refused(one, [["B", "E"], None], rows).startswith("label 'E' is none of the 3 classes")
    assert refused(one, [None, "B", None, None]) == (
        "the labels are of whole texts, the head of the model is about words: give a tag for each"
        " word of a list, or the model a head of kind: sequence"
    )


def test_a_span_is_its_first_and_last_token() -> None:
    found = gold("span", "start", "end").of([[3, 5], None, [0, 0], [2, 2]], ROWS)
    assert found.dtype == torch.int64
    assert found.tolist() == [[3, 5], [-100, -100], [0, 0], [2, 2]]


@pytest.mark.parametrize("label", [["a", "b"], [1, 2, 3], []])
def test_lists_that_are_no_span(label: list[Any]) -> None:
    one = gold("span", "start", "end")
    assert refused(one, [label, None, None, None]) == (
        f"label {label!r} is no first and last token, which a head of kind: span needs: use a"
        " source of kind: squad"
    )
    assert refused(one, ["a", None, None, None]).startswith("label 'a' is one value")


def test_no_rows_have_no_labels() -> None:
    nothing = Encoded(np.empty(0, np.int64), np.empty(0, np.int64), None, np.empty(0, np.int64))
    problems: tuple[Problem, ...] = ("single_label_classification", "regression", "token")
    for problem in problems:
        assert gold(problem, *TAGS).of([], nothing).shape == (0,)
    assert gold("multi_label_classification", *TAGS).of([], nothing).shape == (0, 3)
