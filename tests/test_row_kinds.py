"""Words, labels and questions in a corpus, and rows that do not go together."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdpipe import fill_blocks, row_kinds, write_corpus
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.project import Project
from tests.pieces import make_corpus, new_project, sentences, write_text


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(fill_blocks, "SMALLEST", 20)
    monkeypatch.setattr(fill_blocks, "SPREAD", 100)
    monkeypatch.setattr(fill_blocks, "LARGEST", 1000)


def conll(count: int) -> list[tuple[list[str], list[str]]]:
    """Words and tags of different sentences; the last word has no token."""
    rows = []
    for number, line in enumerate(sentences(count)):
        words = [*line.split(), "\u200b"]
        rows.append((words, [f"T{(number + place) % 11}" for place in range(len(words))]))
    return rows


def tagged(project: Path, rows: list[tuple[list[str], list[str]]], **keys: Any) -> Project:
    """A project over a file of columns."""
    text = "\n".join("".join(f"{w}\t{t}\n" for w, t in zip(*row, strict=True)) for row in rows)
    (project / "a.conll").write_text(text, "utf-8")
    spec = {
        "sources": [{"kind": "conll", "files": ["a.conll"]}],
        "tokenizer": "tiny",
        "max_seq_length": 12,
    }
    return new_project(project, ["-"], corpora={"text": {**spec, **keys}})


def test_words_and_tags_are_kept(project):
    rows = conll(80)
    place = tagged(project, rows)
    made = make_corpus(place)
    assert len(made.facts.blocks) > 5
    assert made.facts.labels == tuple(sorted(f"T{n}" for n in range(11)))
    order = np.random.default_rng(0).permutation(80)
    wanted = place.reading("text").tokenizer.encode_words([rows[row][0] for row in order], 12)
    found = made.gather(order)
    assert found.ids.tolist() == wanted.ids.tolist()
    assert found.word_of.tolist() == wanted.word_of.tolist()
    assert found.word_of.dtype == np.int64
    assert (found.lengths == 12).any()
    assert made.words(order) == [rows[row][0] for row in order]
    assert made.labels(order) == [rows[row][1] for row in order]
    first = made.all_of(0)
    count = made.facts.blocks[0].rows
    assert first.word_of.tolist() == made.gather(np.arange(count)).word_of.tolist()


def test_words_change_neither_the_digests_nor_the_split(project):
    rows = conll(80)
    made = make_corpus(tagged(project, rows, validation=0.2))
    write_text(project / "text.txt", [" ".join(words) for words, _ in rows])
    plain = {"kind": "files", "files": ["text.txt"]}
    spec = {"sources": [plain], "tokenizer": "tiny", "max_seq_length": 12, "validation": 0.2}
    two = {"plain": spec, "cut": {**spec, "sources": [{**plain, "split_words": True}]}}
    place = new_project(project, [" ".join(words) for words, _ in rows], corpora=two)
    text, cut = make_corpus(place, "plain"), make_corpus(place, "cut")
    wanted = [block.tokens_digest for block in made.facts.blocks]
    assert [block.tokens_digest for block in text.facts.blocks] == wanted
    assert text.held_out.tolist() == made.held_out.tolist()
    assert (text.gather(np.arange(3)).word_of, text.all_of(0).word_of) == (None, None)
    assert cut.words(np.arange(80)) == [words for words, _ in rows]
    assert cut.labels(np.arange(3)) == [None] * 3
    with pytest.raises(ArtifactError) as caught:
        text.words(np.arange(3))
    assert str(caught.value) == (
        f"{text.folder} has no words: read a source of kind conll, a column that holds lists of"
        " words, or set split_words: true"
    )


def test_labelled_rows_and_others_that_come_again(project):
    rows = conll(30)
    write_text(project / "more.txt", [" ".join(words) for words, _ in (*rows, *conll(45)[30:])])
    more = {"kind": "files", "files": ["more.txt"], "split_words": True}
    sources = [{"kind": "conll", "files": ["a.conll"]}, more]
    made = make_corpus(tagged(project, rows, sources=sources))
    assert (made.facts.rows, made.facts.duplicates) == (45, 30)
    assert made.labels(np.arange(45)) == [*(tags for _, tags in rows), *[None] * 15]
    # What comes first is kept with its label, or without.
    turned = make_corpus(tagged(project, rows, sources=sources[::-1]))
    assert turned.labels(np.arange(45)) == [None] * 45
    assert turned.facts.labels == ()


@pytest.mark.parametrize(
    ("labels", "kind", "facts"),
    [
        ([3, None, 20, -1, 3], "int64", ("-1", "3", "20")),
        ([0.5, None, 3.0], "double", ()),
        (["b", "10", "a", None, "b"], "string", ("10", "a", "b")),
        (["10", "9", "010"], "string", ("9", "010", "10")),
        ([["b", "a"], [], None, ["c"]], "list<item: string not null>", ("a", "b", "c")),
        ([["10"], ["9", "10"]], "list<item: string not null>", ("9", "10")),
    ],
)
def test_labels_of_every_type(project, labels, kind, facts):
    lines = [{"text": f"row {n}", "y": label} for n, label in enumerate(labels)]
    (project / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"kind": "files", "files": ["a.jsonl"], "label_column": "y"}
    spec = {"sources": [source], "tokenizer": "tiny"}
    made = make_corpus(new_project(project, ["-"], corpora={"text": spec}))
    wanted = [sorted(label) if isinstance(label, list) else label for label in labels]
    assert made.labels(np.arange(len(labels))) == wanted
    assert [type(x) for x in made.labels(np.arange(len(labels)))] == [type(x) for x in labels]
    assert made.facts.labels == facts
    assert str(made.block(0).labels.type) == kind


def test_a_block_before_the_first_label(project, monkeypatch):
    monkeypatch.setattr(write_corpus, "CHUNK", 10)
    lines = [{"text": line, "y": "x" if n > 60 else None} for n, line in enumerate(sentences(70))]
    (project / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"kind": "files", "files": ["a.jsonl"], "label_column": "y"}
    spec = {"sources": [source], "tokenizer": "tiny"}
    made = make_corpus(new_project(project, ["-"], corpora={"text": spec}))
    assert made.block(0).labels is None
    assert made.labels(np.arange(70)) == [None] * 61 + ["x"] * 9


def test_more_labels_than_there_are_classes(project, monkeypatch):
    assert row_kinds.MOST_LABELS == 10_000
    monkeypatch.setattr(row_kinds, "MOST_LABELS", 3)
    rows = [(["a"], ["x"]), (["b", "c"], ["y", "z"])]
    assert make_corpus(tagged(project, rows)).facts.labels == ("x", "y", "z")
    with pytest.raises(ArtifactError) as caught:
        make_corpus(tagged(project, [*rows, (["d", "e"], ["z", "w"])]))
    assert str(caught.value) == (
        "more than 3 different labels, such as ('z', 'w'): choose another label_column"
    )


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            [{"kind": "conll", "files": ["a.conll"]}, {"kind": "files", "files": ["text.txt"]}],
            "some rows are words and some plain text: set split_words: true for the text, or make"
            " two corpora of them",
        ),
        (
            [
                {"kind": "files", "files": ["a.jsonl"], "label_column": "y"},
                {"kind": "files", "files": ["a.jsonl"], "label_column": "z"},
            ],
            "labels are lists and string: give all sources labels of one type",
        ),
        (
            [
                {"kind": "files", "files": ["a.jsonl"]},
                {"kind": "files", "files": ["a.jsonl"], "text_pair_column": "z"},
            ],
            "some rows are pairs and some are not: make two corpora of them",
        ),
    ],
)
def test_rows_of_different_kinds(project, sources, message):
    place = tagged(project, conll(3), sources=sources, deduplicate=False)
    (project / "a.jsonl").write_text('{"text": "a b", "y": ["c"], "z": "d"}\n')
    with pytest.raises(ArtifactError) as caught:
        make_corpus(place)
    assert str(caught.value) == message


def asked(project: Path, **keys: Any) -> tuple[Project, list[dict[str, Any]]]:
    """A project over questions: contexts that need several windows, one question without answer."""
    table = []
    for number in range(24):
        context = " ".join(sentences(number % 5 + 1, start=number))
        word = context.split()[(number * 5) % 7]
        answer = {"text": word, "answer_start": context.index(word)}
        table.append({"id": str(number), "question": f"what {number} is it", "context": context,
                      "answers": [answer] if number != 3 else []})  # fmt: skip
    (project / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    source = {"kind": "squad", "files": ["a.jsonl"], "doc_stride": 4}
    spec = {"sources": [source], "tokenizer": "tiny", "max_seq_length": 32, "validation": 0.2}
    return new_project(project, ["-"], corpora={"text": {**spec, **keys}}), table


def test_questions_become_windows_with_the_tokens_of_their_answers(project):
    place, table = asked(project)
    made = make_corpus(place)
    backend = place.reading("text").tokenizer.backend
    rows = np.arange(made.facts.rows)
    found, labels = made.gather(rows), made.labels(rows)
    assert found.second_at is not None
    assert (made.facts.longest, made.facts.cut_rows, made.facts.labels) == (32, 0, ())
    assert str(made.block(0).labels.type) == "list<item: int32 not null>"
    digests = [bytes(x) for n in range(len(made.facts.blocks)) for x in made.block(n).text_digest]
    at = 0
    starts = np.cumsum([0, *found.lengths])
    for row in table:
        text = f"{row['question']}\0{row['context']}".encode()
        digest = hashlib.blake2b(text, digest_size=16).digest()
        count = digests.count(digest)
        assert digests[at : at + count] == [digest] * count
        # A question is on one side of the split as a whole.
        assert len({*made.held_out[at : at + count].tolist()}) == 1
        here = labels[at : at + count]
        if not row["answers"]:
            assert here == [None] * count
        else:
            there = [n for n, label in enumerate(here) if label != [0, 0]]
            assert there, row
            for n in there:
                first, last = here[n]
                ids = found.ids[starts[at + n] :][first : last + 1].tolist()
                said = backend.decode(ids).replace(" ", "")
                assert said == row["answers"][0]["text"].lower()
        at += count
    assert at == made.facts.rows > 2 * len(table)
    assert 0 < made.facts.held_out < made.facts.rows
    blocks = [made.all_of(n) for n in range(len(made.facts.blocks))]
    assert np.concatenate([block.ids for block in blocks]).tolist() == found.ids.tolist()


def test_questions_come_once_and_are_counted_before_they_are_cut(project):
    place, table = asked(project, max_rows=5)
    few = make_corpus(place)
    texts = {bytes(x) for n in range(len(few.facts.blocks)) for x in few.block(n).text_digest}
    assert len(texts) == 5 < few.facts.rows
    twice = {"kind": "squad", "files": ["a.jsonl", "b.jsonl"], "doc_stride": 4}
    (project / "b.jsonl").write_bytes((project / "a.jsonl").read_bytes())
    place, table = asked(project, sources=[twice])
    assert make_corpus(place).facts.duplicates == len(table)


@pytest.mark.parametrize(
    ("keys", "kind", "message"),
    [
        (
            {"max_seq_length": 14},
            UsageError,
            "doc_stride is 4, but windows of 14 tokens have room for 4 of the context beside a"
            " question: lower it, or raise max_seq_length",
        ),
        (
            {
                "sources": [
                    {"kind": "squad", "files": ["a.jsonl"], "doc_stride": 4},
                    {"kind": "squad", "files": ["a.jsonl"], "doc_stride": 5},
                ],
                "deduplicate": False,
            },
            ArtifactError,
            "some rows are questions in windows and some are not, or doc_stride differs: make two"
            " corpora of them",
        ),
    ],
)
def test_windows_that_do_not_fit(project, keys, kind, message):
    place, _ = asked(project, **keys)
    with pytest.raises(kind) as caught:
        make_corpus(place)
    assert str(caught.value) == message
