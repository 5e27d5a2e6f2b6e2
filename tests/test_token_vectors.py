"""Vectors of tokens and words in files find their places, or are refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from kdpipe.parts import TOKEN_LOGITS, Part
from kdpipe.project import open_project
from tests.ends import Capture, command, fails
from tests.pieces import write_text
from tests.vectors import (
    CORPUS,
    FILE,
    HEAD,
    ORDER,
    ROWS,
    TEXTS,
    begun,
    made,
    pipeline,
    refused,
    run,
    write_table,
)

WIDTH = 3
HIDDEN = "part: hidden, layer: 3, storage: fp32"
WORDS = "part: logits, per: word, classes: [O, B, I]"
STATES = Part("hidden", 3)
OF_WORDS = HEAD.replace("[text.txt]", "[text.txt], split_words: true")
SHORT = OF_WORDS.replace("max_seq_length: 32", "max_seq_length: 20")
Vectors = list[np.ndarray]
LIST = pa.list_(pa.list_(pa.float32()))


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project to import into."""
    return begun(project, monkeypatch)


def tokenized(head: str = HEAD) -> list[int]:
    """Tokens of each row."""
    pipeline("{part: embedding, file: no.npy}", head=head)
    run("tokenize")
    lengths: list[int] = open_project(FILE).corpus("text").lengths.tolist()
    assert len({*lengths}) > 3
    return lengths


def vectors_of(counts: list[int], width: int = WIDTH) -> Vectors:
    """Lists of vectors, no two of them the same."""
    random = np.random.default_rng(5)
    return [random.standard_normal((count, width)).astype(np.float32) for count in counts]


def nested(vectors: Vectors, kind: pa.DataType = LIST) -> pa.Array:
    return pa.array([row.tolist() for row in vectors], kind)


def write_lengths(vectors: Vectors, **more: torch.Tensor) -> None:
    values = torch.from_numpy(np.concatenate(vectors))
    lengths = torch.tensor([len(row) for row in vectors])
    save_file({"values": values, "lengths": lengths} | more, "v.safetensors")


def read(part: Part, rows: Any = range(ROWS)) -> torch.Tensor:
    return made().read(np.array(rows), frozenset({part}))[part]


def write_in_order(vectors: Vectors) -> str:
    write_lengths(vectors)
    return "file: v.safetensors"


def write_numbered(vectors: Vectors) -> str:
    write_lengths([vectors[row] for row in ORDER], rows=torch.from_numpy(ORDER))
    return "file: v.safetensors"


def write_lists(vectors: Vectors) -> str:
    write_table("v.parquet", values=nested(vectors))
    return "file: v.parquet"


def write_lists_by_number(vectors: Vectors) -> str:
    kind = pa.large_list(pa.list_(pa.float64(), WIDTH))
    write_table("v.parquet", row=ORDER, said=nested([vectors[row] for row in ORDER], kind))
    return "file: v.parquet, id_column: row, value_column: said"


def write_lists_by_text(vectors: Vectors) -> str:
    # Other texts, blank ones, and texts again with other vectors, of which the first count.
    texts = ["nobody's", None, *(TEXTS[row] for row in ORDER), TEXTS[ORDER[0]], " "]
    rows = [vectors[1], vectors[0][:1], *(vectors[row] for row in ORDER), vectors[2], vectors[3]]
    write_table("v.arrow", text=texts, values=nested(rows))
    return "file: v.arrow, text_column: text"


WRITERS = (
    *(write_in_order, write_numbered),
    *(write_lists, write_lists_by_number, write_lists_by_text),
)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_format_gives_every_token_its_vector(here: Path, write: Any) -> None:
    vectors = vectors_of(tokenized())
    pipeline(f"{{{HIDDEN}, {write(vectors)}}}")
    run("cache-teacher")
    assert len(made().corpus.facts.blocks) > 3
    assert torch.equal(read(STATES), torch.from_numpy(np.concatenate(vectors)))
    some = [7, 0, 39, 7]
    wanted = np.concatenate([vectors[row] for row in some])
    assert torch.equal(read(STATES, some), torch.from_numpy(wanted))
    dims = made().dims
    assert (dims.hidden, dims.layers, dims.heads, dims.embedding) == (WIDTH, 3, 0, 0)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_words_lie_at_their_first_tokens(here: Path, write: Any) -> None:
    tokenized(OF_WORDS)
    corpus = open_project(FILE).corpus("text")
    words = corpus.words(np.arange(ROWS))
    vectors = vectors_of([len(row) for row in words])
    pipeline(f"{{{WORDS}, {write(vectors)}}}", head=OF_WORDS)
    run("cache-teacher")
    found, first, several = read(TOKEN_LOGITS), 0, 0
    for row, length in enumerate(corpus.lengths.tolist()):
        word_of = corpus.gather(np.array([row])).word_of.tolist()
        for place, word in enumerate(word_of):
            begins = word >= 0 and (place == 0 or word_of[place - 1] != word)
            wanted = torch.from_numpy(vectors[row][word]) if begins else torch.zeros(3)
            assert torch.equal(found[first + place], wanted), (row, place)
        several += len(word_of) - len({*word_of})
        first += length
    assert several > 100
    assert (made().dims.classes, made().dims.problem) == (("O", "B", "I"), "token")


def test_words_that_are_cut_off_may_have_vectors_or_not(here: Path, capsys: Capture) -> None:
    lengths = tokenized(SHORT)
    corpus = open_project(FILE).corpus("text")
    every = [len(row) for row in corpus.words(np.arange(ROWS))]
    left = [max(corpus.gather(np.array([row])).word_of) + 1 for row in range(ROWS)]
    cut = [row for row in range(ROWS) if left[row] < every[row]]
    assert max(lengths) == 20
    assert 5 < len(cut) < ROWS
    vectors = vectors_of(every)
    shorter = [row[:count] for row, count in zip(vectors, left, strict=True)]
    for said in (vectors, shorter):
        write_lengths(said)
        pipeline(f"{{{WORDS}, file: v.safetensors}}", head=SHORT)
        run("cache-teacher")
        found = read(TOKEN_LOGITS)
        there = found[(found != 0).any(1)]
        assert torch.equal(there, torch.from_numpy(np.concatenate(shorter)))
    for row, count in ((cut[1], left[cut[1]] - 1), (cut[1], every[cut[1]] + 1)):
        wrong = [*vectors]
        wrong[row] = np.ones((count, WIDTH), np.float32)
        write_lengths(wrong)
        assert refused_again(capsys) == (
            f"v.safetensors has {count} vectors for row {row} of {CORPUS}, which has {every[row]}"
            f" words ({left[row]} of them before it is cut off): write one vector for each word"
            " (wrong are 1 of 40 rows)"
        )


def refused_again(capsys: Capture) -> str:
    capsys.readouterr()
    return fails(capsys, ["cache-teacher", str(FILE)], 3)


def test_another_number_of_tokens(here: Path, capsys: Capture) -> None:
    lengths = tokenized()
    for write in (write_in_order, write_lists_by_number, write_lists_by_text):
        counts = [*lengths]
        counts[11] -= 2
        counts[30] += 1
        pipeline(f"{{{HIDDEN}, {write(vectors_of(counts))}}}")
        line = refused_again(capsys)
        assert line.partition(" ")[2] == (
            f"has {lengths[11] - 2} vectors for row 11 of {CORPUS}, which has {lengths[11]} tokens,"
            " special ones included: write one vector for each token that the corpus has (wrong are"
            " 2 of 40 rows)"
        )
        capsys.readouterr()
        assert fails(capsys, ["cache-teacher", "--dry-run", str(FILE)], 3) == line
    write_lengths(vectors_of(lengths[:-1]))
    assert refused(capsys, f"{{{HIDDEN}, file: v.safetensors}}").startswith(
        f"v.safetensors has 39 lists of vectors, {CORPUS} has 40 rows (blank texts and 0 repeated"
    )


def test_lengths_that_are_none(here: Path, capsys: Capture) -> None:
    values = torch.from_numpy(np.concatenate(vectors_of(tokenized())))
    count = len(values)
    for tensors, wanted in (
        ({}, "v.safetensors has no tensor 'lengths': write how many of the vectors each row has"),
        ({"lengths": torch.ones(40)}, "v.safetensors: 'lengths' is float32 of the shape [40]: gi"),
        ({"lengths": torch.tensor([[1]])}, "v.safetensors: 'lengths' is int64 of the shape [1, 1"),
        ({"lengths": torch.tensor([-1, 2])}, "v.safetensors: 'lengths' is int64 of the shape [2]"),
        (
            {"lengths": torch.ones(40).long()},
            f"v.safetensors: 'lengths' are 40 vectors in all, 'values' has {count}: write the rows",
        ),
        (
            {"lengths": torch.tensor([count]), "rows": torch.arange(2)},
            "v.safetensors has 1 list of vectors, but 'rows' is int64 of the shape [2]: give each",
        ),
    ):
        save_file({"values": values} | tensors, "v.safetensors")
        assert refused(capsys, f"{{{HIDDEN}, file: v.safetensors}}").startswith(wanted)


def test_tables_that_are_no_lists_of_vectors(here: Path, capsys: Capture) -> None:
    vectors = vectors_of(tokenized())
    rows: list[Any] = [row.tolist() for row in vectors]

    def line(values: Any) -> str:
        write_table("v.parquet", values=values)
        return refused(capsys, f"{{{HIDDEN}, file: v.parquet}}").removeprefix(
            "v.parquet: column 'values'"
        )

    assert line(pa.array([row[0] for row in rows])) == (
        " is list<element: double>, not lists of vectors: write a list of lists of numbers for each"
        " row, or choose another value_column"
    )
    assert line(TEXTS).startswith(" is string, not lists of vectors: write a list of lists")
    assert line([[["a"]]] * 40).startswith(" is list<element: string>, not lists of numbers: choo")
    assert line([*rows[:9], [*rows[9][:-1], None], *rows[10:]]) == (
        ": row 10 has null in place of a vector: mend the file"
    )
    assert line([*rows[:9], [*rows[9][:-1], [1.0]], *rows[10:]]) == (
        ": row 10 has 1 number, those before it have 3: mend the file"
    )
    assert line([*rows[:9], None, *rows[10:]]).endswith(
        f" has nothing for 1 of 40 rows of {CORPUS} (row 9): give every row a vector; texts must be"
        " just as in the sources"
    )


def test_what_is_not_finite_names_the_row_of_the_token(here: Path, capsys: Capture) -> None:
    vectors = vectors_of(tokenized())
    vectors[33][2, 1] = np.inf
    write_lengths(vectors)
    line = refused(capsys, f"{{{HIDDEN}, file: v.safetensors}}", code=7)
    assert line == "v.safetensors is NaN or Inf in fp32 for row 33 of the corpus: mend the file"


def test_rows_with_one_text_are_told_apart_by_their_number(here: Path, capsys: Capture) -> None:
    write_text(Path("text.txt"), [*TEXTS, TEXTS[0]])
    head = HEAD + "    deduplicate: false\n"
    vectors = vectors_of(tokenized(head))
    write_table("v.parquet", text=[*TEXTS, TEXTS[0]], row=range(41), values=nested(vectors))
    line = refused(capsys, f"{{{HIDDEN}, file: v.parquet, text_column: text}}", head=head)
    assert line == (
        f"v.parquet: {CORPUS} has a text in several rows (deduplicate: false, or windows of a"
        " context), which may differ in tokens: find rows by id_column"
    )
    pipeline(f"{{{HIDDEN}, file: v.parquet, id_column: row}}", head=head)
    run("cache-teacher")
    assert torch.equal(read(STATES, range(41)), torch.from_numpy(np.concatenate(vectors)))


def test_words_of_rows_that_are_none(here: Path, capsys: Capture) -> None:
    write_lengths(vectors_of(tokenized()))
    assert refused(capsys, f"{{{WORDS}, file: v.safetensors}}") == (
        f"v.safetensors has vectors of words, the rows of {CORPUS} are no lists of words: set"
        " split_words: true of its sources, or per: token of the file"
    )


def test_states_of_two_widths_and_logits_of_other_classes(here: Path, capsys: Capture) -> None:
    lengths = tokenized()
    write_lengths(vectors_of(lengths, 5))
    Path("v.safetensors").rename("w.safetensors")
    write_lengths(vectors_of(lengths))
    both = f"{{{HIDDEN}, file: v.safetensors}}, {{part: key, layer: 1, file: w.safetensors}}"
    wanted = (
        "w.safetensors has vectors of 5 numbers, v.safetensors of 3: states of a teacher have one"
        " width, make another cache of some"
    )
    assert refused(capsys, both) == wanted
    capsys.readouterr()
    assert fails(capsys, ["cache-teacher", "--dry-run", str(FILE)], 3) == wanted
    span = "{part: logits, per: token, problem_type: span, file: v.safetensors}"
    assert refused(capsys, span) == (
        "v.safetensors has 3 logits a token, expected 2 (start, end): mend 'classes' or"
        " 'problem_type'"
    )


def test_dry_run_tells_the_bytes_of_tokens(here: Path, capsys: Capture) -> None:
    write_lengths(vectors_of(tokenized()))
    pipeline("{part: hidden, layer: 3, file: v.safetensors}")
    capsys.readouterr()
    command(["cache-teacher", "--dry-run", str(FILE)])
    out = capsys.readouterr().out
    facts = open_project(FILE).corpus("text").facts
    # With the digest of each row and how many vectors it has.
    size = facts.tokens * WIDTH * 2 + 20 * facts.rows
    (line,) = (line for line in out.splitlines() if "hidden.3.fp16" in line)
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells[4:6] == [f"{size / facts.tokens:,.0f}", f"{size:,}"]


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        (
            "{part: hidden, layer: 1, file: v.npy}",
            "v.npy does not tell how many vectors each row has: use .safetensors, .parquet or",
        ),
        ("{part: hidden, file: v.arrow}", "hidden needs 'layer', 1 is the first"),
        ("{part: query, layer: 0, file: v.arrow}", "query of layer 0: 1 is the first layer"),
        (
            "{part: embedding, layer: 1, file: v.npy}",
            "key 'layer' is about hidden, query, key, value: take it out",
        ),
        (
            "{part: hidden, layer: 1, per: token, file: v.arrow}",
            "key 'per' is about logits: take it out",
        ),
        (
            "{part: logits, per: word, problem_type: regression, file: v.arrow}",
            "problem_type 'regression' is not about a word: allowed: single_label_classification",
        ),
        (
            "{part: logits, problem_type: span, file: v.arrow}",
            "problem_type 'span' is not about a row: allowed: single_label_classification, multi_",
        ),
        (
            "{part: logits, per: token, problem_type: span, classes: [a, b], file: v.arrow}",
            "a span has no classes: take them out",
        ),
        (
            "{part: hidden, layer: 1, file: v.arrow}, {part: hidden, layer: 1, file: w.arrow}",
            "two of 'files' have hidden states of layer 1: make another cache of one of them",
        ),
        (
            "{part: logits, classes: [a, b], file: v.npy},"
            " {part: logits, per: word, classes: [a, b], file: w.arrow}",
            "two of 'files' have logits: make another cache of one of them",
        ),
    ],
)
def test_a_file_that_cannot_be(here: Path, capsys: Capture, file: str, wanted: str) -> None:
    pipeline(file)
    assert wanted in fails(capsys, ["cache-teacher", str(FILE)], 2)
