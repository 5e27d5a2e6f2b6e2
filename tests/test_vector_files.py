"""Vectors in files of every format find their rows, or are refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from kdpipe.parts import EMBEDDING, LOGITS
from tests.ends import Capture
from tests.pieces import write_text
from tests.reader import decode, read_blocks, read_manifest, read_safetensors
from tests.vectors import (
    CORPUS,
    FP32,
    HEAD,
    LOGIT,
    NPY,
    ORDER,
    ROWS,
    TEXTS,
    VECTORS,
    WIDTH,
    begun,
    lists,
    made,
    pipeline,
    refused,
    run,
    write_arrow_of_texts,
    write_fortran_npy,
    write_npy,
    write_parquet,
    write_parquet_of_rows,
    write_safetensors,
    write_safetensors_of_rows,
    write_table,
)

WRITERS = (
    *(write_npy, write_fortran_npy, write_safetensors, write_safetensors_of_rows),
    *(write_parquet, write_parquet_of_rows, write_arrow_of_texts),
)


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project to import into."""
    return begun(project, monkeypatch)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_format_gives_every_row_its_vector(here: Path, write: Any) -> None:
    pipeline(write())
    run("tokenize", "cache-teacher")
    manifest, _ = read_manifest(here / "artifacts/caches/mine")
    blocks = read_blocks(here / "artifacts/corpora/text")
    assert len(manifest["files"]) == len(blocks) > 3
    found = [
        decode(read_safetensors(here / "artifacts/caches/mine" / file["name"])[0], "fp32")
        for file in manifest["files"]
    ]
    assert [len(values) for values in found] == [len(block) for block in blocks]
    assert np.array_equal(np.concatenate(found), VECTORS)
    facts = {key: manifest["facts"][key] for key in ("dtype", "embedding_width", "rows", "layers")}
    assert facts == {"dtype": "fp32", "embedding_width": WIDTH, "rows": ROWS, "layers": 0}
    rows = np.array([7, 0, 39, 7])
    assert torch.equal(
        made().read(rows, frozenset({EMBEDDING}))[EMBEDDING], torch.from_numpy(VECTORS[rows])
    )


@pytest.mark.parametrize(
    ("storage", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", None)]
)
def test_bf16_and_fp16_files_and_their_storage(here: Path, storage: str, dtype: Any) -> None:
    values = torch.from_numpy(VECTORS).to(dtype or torch.float32)
    save_file({"values": values}, "v.safetensors")
    pipeline(f"{{part: embedding, file: v.safetensors, storage: {storage}}}")
    run("tokenize", "cache-teacher")
    read = made().read(np.arange(ROWS), frozenset({EMBEDDING}))[EMBEDDING]
    assert torch.equal(read, values.float())


def test_a_regression_is_one_number_a_row(here: Path) -> None:
    write_table("s.parquet", id=ORDER.astype(np.int32), score=pa.array(VECTORS[ORDER, 0]))
    pipeline(
        "{part: logits, file: s.parquet, id_column: id, value_column: score,"
        " problem_type: regression}"
    )
    run("tokenize", "cache-teacher")
    cache = made()
    assert (cache.dims.classes, cache.dims.problem) == (("score",), "regression")
    read = cache.read(np.arange(ROWS), frozenset({LOGITS}))[LOGITS]
    assert torch.equal(read, torch.from_numpy(VECTORS[:, :1]))


def test_pairs_and_words_are_found_by_their_text(here: Path) -> None:
    pairs = pa.table({"a": TEXTS, "b": TEXTS[1:] + TEXTS[:1]})
    pa.parquet.write_table(pairs, "pairs.parquet")
    words = [["  ".join(text.split())] for text in TEXTS]
    write_text(Path("text.txt"), [word for (word,) in words])
    head = HEAD.replace(
        "kind: files, files: [text.txt]",
        "kind: files, files: [pairs.parquet], text_column: a, text_pair_column: b",
    )
    write_table("v.parquet", a=pairs["a"].take(ORDER), b=pairs["b"].take(ORDER),
                values=lists(VECTORS[ORDER]))  # fmt: skip
    file = f"{{{FP32}, file: v.parquet, text_column: a, text_pair_column: b}}"
    pipeline(file, head=head)
    run("tokenize", "cache-teacher")
    read = made().read(np.arange(ROWS), frozenset({EMBEDDING}))[EMBEDDING]
    assert torch.equal(read, torch.from_numpy(VECTORS))

    head = HEAD.replace("files: [text.txt]", "files: [text.txt], split_words: true")
    write_table("w.parquet", a=[text.split() for text in TEXTS], values=lists(VECTORS))
    write_table("t.parquet", a=[word for (word,) in words], values=lists(VECTORS))
    for name in ("w", "t"):
        pipeline(f"{{{FP32}, file: {name}.parquet, text_column: a}}", head=head)
        run("tokenize", "cache-teacher")
        read = made().read(np.arange(ROWS), frozenset({EMBEDDING}))[EMBEDDING]
        assert torch.equal(read, torch.from_numpy(VECTORS))


def test_equal_texts_that_are_kept_have_one_vector_by_text_and_two_by_number(here: Path) -> None:
    write_text(Path("text.txt"), [*TEXTS, TEXTS[5]])
    head = HEAD + "    deduplicate: false\n"
    write_table("v.parquet", text=TEXTS, values=lists(VECTORS))
    pipeline(f"{{{FP32}, file: v.parquet, text_column: text}}", head=head)
    run("tokenize", "cache-teacher")
    both = np.array([5, ROWS])
    read = made().read(both, frozenset({EMBEDDING}))[EMBEDDING]
    assert torch.equal(read, torch.from_numpy(VECTORS[[5, 5]]))
    np.save("v.npy", np.concatenate([VECTORS, VECTORS[:1]]))
    pipeline(f"{{{FP32}, file: v.npy}}", head=head)
    run("cache-teacher")
    read = made().read(both, frozenset({EMBEDDING}))[EMBEDDING]
    assert torch.equal(read, torch.from_numpy(VECTORS[[5, 0]]))


def test_another_number_of_rows(here: Path, capsys: Capture) -> None:
    write_text(Path("text.txt"), [*TEXTS, TEXTS[0], TEXTS[1], ""])
    vectors = np.concatenate([VECTORS, VECTORS[:3]])
    np.save("v.npy", vectors)
    write_table("v.parquet", values=lists(vectors))
    for name in ("v.npy", "v.parquet"):
        assert refused(capsys, f"{{part: embedding, file: {name}}}") == (
            f"{name} has 43 vectors, {CORPUS} has 40 rows (blank texts and 2 repeated ones were"
            " left out): set deduplicate: false for it, or find rows by id_column or text_column"
            " of a table"
        )


def test_rows_without_a_vector(here: Path, capsys: Capture) -> None:
    rest = "give every row a vector; texts must be just as in the sources"
    kept = np.setdiff1d(np.arange(ROWS), [4, 9])
    save_file(
        {"values": torch.from_numpy(VECTORS[kept]), "rows": torch.from_numpy(kept)}, "v.safetensors"
    )
    write_table("i.parquet", row=kept, values=lists(VECTORS[kept]))
    nulls = [None if row in {4, 9} else VECTORS[row].tolist() for row in range(ROWS)]
    write_table("n.arrow", values=pa.array(nulls, pa.list_(pa.float32())))
    for file in ("v.safetensors", "i.parquet, id_column: row", "n.arrow"):
        name = file.partition(",")[0]
        assert refused(capsys, f"{{part: embedding, file: {file}}}") == (
            f"{name} has nothing for 2 of 40 rows of {CORPUS} (row 4, 9): {rest}"
        )
    write_table("t.arrow", text=["another"] * 3, values=lists(VECTORS[:3]))
    assert refused(capsys, "{part: embedding, file: t.arrow, text_column: text}") == (
        f"t.arrow has nothing for 40 of 40 rows of {CORPUS} (row 0, 1, 2, 3, 4, ...): {rest}"
    )


def test_rows_that_are_none_or_come_twice(here: Path, capsys: Capture) -> None:
    for wrong, wanted in (
        (
            40,
            f"names row 40, {CORPUS} has rows 0 to 39: number the rows as the corpus does, or use",
        ),
        (
            -1,
            f"names row -1, {CORPUS} has rows 0 to 39: number the rows as the corpus does, or use",
        ),
        (38, "names row 38 twice: keep one vector for each row"),
    ):
        rows = np.append(np.arange(ROWS - 1), wrong)
        save_file(
            {"values": torch.from_numpy(VECTORS), "rows": torch.from_numpy(rows)}, "v.safetensors"
        )
        line = refused(capsys, "{part: embedding, file: v.safetensors}")
        assert line.startswith(f"v.safetensors: tensor 'rows' {wanted}")
        write_table("v.parquet", row=rows, values=lists(VECTORS))
        line = refused(capsys, "{part: embedding, file: v.parquet, id_column: row}")
        assert line.startswith(f"v.parquet: column 'row' {wanted}")
    for column, kind in ((np.arange(ROWS) / 2, "double"), (pa.array([None, *range(39)]), "a null")):
        write_table("v.parquet", row=column, values=lists(VECTORS))
        assert refused(capsys, "{part: embedding, file: v.parquet, id_column: row}") == (
            f"v.parquet: column 'row' has {kind} where each value is the number of a row: mend it"
        )
    for numbers in (torch.arange(39), torch.arange(40.0)):
        save_file({"values": torch.from_numpy(VECTORS), "rows": numbers}, "v.safetensors")
        line = refused(capsys, "{part: embedding, file: v.safetensors}")
        kind = str(numbers.dtype).removeprefix("torch.")
        assert line == (
            f"v.safetensors has 40 vectors, but 'rows' is {kind} of the shape [{len(numbers)}]:"
            " give each the number of its row, as int64"
        )


@pytest.mark.parametrize(("value", "storage"), [(np.nan, "fp32"), (-np.inf, "fp16"), (7e4, "fp16")])
def test_what_is_not_finite_names_the_row(
    here: Path, capsys: Capture, value: float, storage: str
) -> None:
    vectors = VECTORS.copy()
    vectors[33, 2] = value
    np.save("v.npy", vectors)
    write_table("v.parquet", row=ORDER, values=lists(vectors[ORDER]))
    for file in ("v.npy", "v.parquet, id_column: row"):
        line = refused(capsys, f"{{part: embedding, storage: {storage}, file: {file}}}", code=7)
        assert line == (
            f"{file.partition(',')[0]} is NaN or Inf in {storage} for row 33 of the corpus: mend"
            f" the file{', or set storage: fp32 if it has them not' * (storage == 'fp16')}"
        )


def test_numbers_beyond_fp32_and_nulls_within_a_vector(here: Path, capsys: Capture) -> None:
    for value in (1e300, None):
        vectors: list[list[Any]] = VECTORS.tolist()
        vectors[12][0] = value
        write_table("v.parquet", values=pa.array(vectors, pa.list_(pa.float64())))
        line = refused(capsys, f"{{{FP32}, file: v.parquet}}", code=7)
        assert line == "v.parquet is NaN or Inf in fp32 for row 12 of the corpus: mend the file"


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (np.zeros((40, 2, 2)), "v.npy is float64 of the shape [40, 2, 2], not a vector of numbers"),
        (np.zeros((40, 0)), "v.npy is float64 of the shape [40, 0], not a vector of numbers for"),
        (
            np.zeros((40, 2), bool),
            "v.npy is bool of the shape [40, 2], not a vector of numbers for",
        ),
        (
            np.zeros((40, 2), complex),
            "v.npy is complex128 of the shape [40, 2], not a vector of nu",
        ),
        (np.zeros((40, 2), ">f4"), "v.npy cannot be read (given numpy array has byte order diff"),
        (np.array([["a"]] * 40), "v.npy cannot be read (can't convert np.ndarray of type numpy.st"),
        (
            np.array([[{}]] * 40),
            "v.npy cannot be read (Array can't be memory-mapped: Python object",
        ),
    ],
)
def test_arrays_that_are_no_vectors(
    here: Path, capsys: Capture, array: np.ndarray, wanted: str
) -> None:
    np.save("v.npy", array, allow_pickle=True)
    assert refused(capsys, f"{{{NPY}}}").startswith(wanted)


@pytest.mark.parametrize("name", ["v.npy", "v.safetensors", "v.parquet", "v.arrow"])
def test_damaged_files(here: Path, capsys: Capture, name: str) -> None:
    {
        "v.npy": write_npy,
        "v.safetensors": write_safetensors,
        "v.parquet": write_parquet,
        "v.arrow": write_arrow_of_texts,
    }[name]()
    whole = Path(name).read_bytes()
    text = ", text_column: text" if name == "v.arrow" else ""
    for data in (b"", b"hello", whole[: len(whole) // 2]):
        Path(name).write_bytes(data)
        line = refused(capsys, f"{{part: embedding, file: {name}{text}}}")
        assert line.startswith((f"{name} cannot be read (", f"{name} is damaged ("))
    Path(name).unlink()
    line = refused(capsys, f"{{part: embedding, file: {name}}}")
    assert line == f"{name} does not exist: check 'files' in the pipeline file"


def test_tables_that_are_no_vectors(here: Path, capsys: Capture) -> None:
    def line(keys: str = "", **columns: Any) -> str:
        write_table("v.parquet", **columns)
        return refused(capsys, f"{{part: embedding, file: v.parquet{keys}}}")

    assert line(values=TEXTS) == (
        "v.parquet: column 'values' is string, not lists of numbers: choose another value_column"
    )
    assert "column 'values' is list<element: bool>, not lists" in line(values=[[True]] * ROWS)
    ragged = VECTORS.tolist()
    ragged[11] = ragged[11][:4]
    assert line(values=pa.array(ragged)) == (
        "v.parquet: column 'values': row 12 has 4 numbers, those before it have 6: mend the file"
    )
    empty = pa.array([[]] * ROWS, pa.list_(pa.float32()))
    assert line(values=empty) == "v.parquet: column 'values': row 1 has 0 numbers: mend the file"
    assert line(vector=lists(VECTORS)) == ("v.parquet: no column 'values': allowed: vector")
    assert line(", id_column: rows", values=lists(VECTORS), row=ORDER) == (
        "v.parquet: no column 'rows': did you mean 'row'? allowed: values, row"
    )
    assert line(", text_column: text", values=lists(VECTORS), text=ORDER) == (
        "v.parquet: row 1: column 'text' is int, not text: choose another"
    )
    assert line(
        ", text_column: a, text_pair_column: b", values=lists(VECTORS), a=TEXTS, b=TEXTS
    ) == (f"v.parquet: {CORPUS} has texts: take out text_pair_column")


def test_a_corpus_of_pairs_needs_both_texts(here: Path, capsys: Capture) -> None:
    pa.parquet.write_table(pa.table({"a": TEXTS, "b": TEXTS}), "pairs.parquet")
    head = HEAD.replace("[text.txt]", "[pairs.parquet], text_column: a, text_pair_column: b")
    write_table("v.parquet", text=TEXTS, values=lists(VECTORS))
    line = refused(capsys, "{part: embedding, file: v.parquet, text_column: text}", head=head)
    assert line == f"v.parquet: {CORPUS} has pairs: give text_pair_column"


def test_a_safetensors_file_without_values(here: Path, capsys: Capture) -> None:
    save_file({"vectors": torch.from_numpy(VECTORS)}, "v.safetensors")
    assert refused(capsys, "{part: embedding, file: v.safetensors}") == (
        "v.safetensors has no tensor 'values', but vectors: rename the right one"
    )


def test_logits_that_are_not_their_classes(here: Path, capsys: Capture) -> None:
    np.save("l.npy", LOGIT)
    assert refused(capsys, "{part: logits, file: l.npy, classes: [yes, no]}") == (
        "l.npy has 3 logits a row, expected 2 (yes, no): mend 'classes' or 'problem_type'"
    )
    assert refused(capsys, "{part: logits, file: l.npy, problem_type: regression}") == (
        "l.npy has 3 logits a row, expected 1 (score): mend 'classes' or 'problem_type'"
    )
