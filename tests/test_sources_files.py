"""Every way to name files, and what is said about files that are not there or have no text."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdpipe.errors import ArtifactError, UsageError, explain
from kdpipe.sources import Files, HubDataset, PythonDocs, Row
from tests.tables import (
    ALLOWED,
    LINES,
    encode_arrow,
    encode_parquet,
    gzip_,
    refused,
    texts,
    write,
)


def test_a_folder_is_read_in_sorted_order(tmp_path: Path) -> None:
    for name in ("z.txt", "b/c.jsonl", "b/a.csv", "a.txt.gz"):
        data = LINES[Path(name.removesuffix(".gz")).suffix]([{"text": name}])
        write(tmp_path / "data" / name, gzip_(data) if name.endswith("gz") else data)
    write(tmp_path / "data" / "readme.md", "no text")
    write(tmp_path / "data" / ".hidden.txt", "hidden")
    write(tmp_path / "data" / ".cache" / "x.txt", "hidden")
    expected = ["a.txt.gz", "b/a.csv", "b/c.jsonl", "z.txt"]
    for name in ("data", "data/", str(tmp_path / "data")):
        assert texts(tmp_path, name) == expected


def test_globs_are_sorted_and_each_file_is_read_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "x/c.txt", "x/y/d.txt", "e.tsv"):
        write(tmp_path / name, f"text\n{name}\n")
    expected = [line for name in ("a", "b", "x/c", "x/y/d") for line in ("text", f"{name}.txt")]
    assert texts(tmp_path, "**/*.txt") == expected
    assert texts(tmp_path, str(tmp_path / "**" / "*.txt")) == expected
    assert texts(tmp_path, "x", "*.txt", "x/c.txt", "./b.txt") == expected[4:] + expected[:4]
    assert texts(tmp_path, "[ae].t*") == ["text", "a.txt", "e.tsv"]


def test_a_name_with_brackets_is_a_file_where_there_is_one(tmp_path: Path) -> None:
    write(tmp_path / "part[1].txt", "literal\n")
    write(tmp_path / "part1.txt", "glob\n")
    assert texts(tmp_path, "part[1].txt") == ["literal"]
    assert Files(kind="files", files=("part[1].txt",)).paths(tmp_path) == ["part[1].txt"]


def test_paths_are_what_must_be_watched(tmp_path: Path) -> None:
    for name in ("p/b.txt", "p/a.txt", "p/data/c.txt", "d.txt"):
        write(tmp_path / name, "text\n")
    root = tmp_path / "p"
    names = ("data/", "*.txt", "./a.txt", str(root / "b.txt"), "later.csv", "../d.txt")
    source = Files(kind="files", files=names)
    assert source.paths(root) == ["../d.txt", "a.txt", "b.txt", "data", "later.csv"]
    with pytest.raises(ArtifactError) as caught:
        Files(kind="files", files=("*.csv",)).paths(root)
    assert str(caught.value) == f"no file matches {root}/*.csv: check 'files' in the pipeline file"
    assert HubDataset(kind="hub", dataset="x/y").paths(root) == []
    assert PythonDocs(kind="python_docs").paths(root) == []


def test_what_is_not_there(tmp_path: Path) -> None:
    check = "check 'files' in the pipeline file"
    write(tmp_path / "a.txt", "text\n")
    write(tmp_path / "bare/readme.md", "no text")
    assert refused(ArtifactError, tmp_path, "b.txt") == f"b.txt does not exist: {check}"
    assert refused(ArtifactError, tmp_path, "x/**/*.txt") == f"no file matches x/**/*.txt: {check}"
    assert refused(ArtifactError, tmp_path, "bare") == (
        f"bare is a folder without a file to read: allowed: {ALLOWED}"
    )
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    assert refused(ArtifactError, tmp_path, "*.txt") == f"gone.txt does not exist: {check}"


def test_a_file_that_vanishes_is_not_called_damaged(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one\n")
    second = write(tmp_path / "b.txt", "two\n")
    rows = Files(kind="files", files=("*.txt",)).rows(tmp_path)
    assert next(rows) == Row("one")
    second.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        next(rows)
    assert str(explain(caught.value)).startswith(f"{second} does not exist: ")


def test_unknown_formats(tmp_path: Path) -> None:
    for name, suffix, hint in (
        ("a.json", ".json", "did you mean '.jsonl'? "),
        ("b.docx", ".docx", ""),
        ("c.tar.gz", ".tar.gz", "did you mean '.txt.gz'? "),
        ("d", "", ""),
        ("e.parquet.zst", ".parquet.zst", "did you mean '.parquet'? "),
    ):
        write(tmp_path / name, "{}")
        message = f"{name}: unknown format {suffix!r}: {hint}allowed: {ALLOWED}"
        assert refused(UsageError, tmp_path, name) == message
    write(tmp_path / "a.csv", "text\na\n")
    source = Files(kind="files", files=("a.csv", "b.docx"))
    with pytest.raises(UsageError):
        next(source.rows(tmp_path))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", b""),
        ("a.txt", b"\n  \n"),
        ("a.txt.gz", gzip_(b"")),
        ("a.jsonl", b"\n"),
        ("a.csv", b""),
        ("a.csv", b"text\n"),
        ("a.tsv", b"text\n\n"),
        ("a.parquet", b""),
        ("a.parquet", encode_parquet([{"text": None}])),
        ("a.arrow", b""),
        ("a.arrow", encode_arrow([{"text": None}])),
    ],
)
def test_empty_files(tmp_path: Path, name: str, data: bytes) -> None:
    write(tmp_path / name, data)
    assert refused(ArtifactError, tmp_path, name) == (
        f"{name} is empty: no row has text; mend it, or take it out of 'files'"
    )
