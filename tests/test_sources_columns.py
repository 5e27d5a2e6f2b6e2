"""Which columns become rows, what a value may be, and every mistake with its whole message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from kdpipe.errors import ArtifactError
from kdpipe.sources import Files, Row, Source
from kdpipe.sources.columns import ColumnError
from tests.tables import TABLES, encode_jsonl, encode_parquet, read, refused, texts, write


def test_labels_of_delimited_files_are_typed_by_how_they_are_written(tmp_path: Path) -> None:
    labels = {"7": 7, "-0": 0, "5.000": 5.0, "1e-05": 1e-05, "007": "007", "+1": "+1", "1_0": "1_0",
              "nan": "nan", "inf": "inf", ".5": ".5", "yes": "yes", "": None, "1\u0663": "1\u0663",
              "123456789012345678": 123456789012345678,
              "1234567890123456789": "1234567890123456789"}  # fmt: skip
    write(tmp_path / "a.csv", "text,y\n" + "".join(f"t,{label}\n" for label in labels))
    found = [row.label for row in read(tmp_path, "a.csv", label_column="y")]
    assert found == [*labels.values()]
    assert [type(label) for label in found] == [type(label) for label in labels.values()]


def test_labels_of_json_and_tables(tmp_path: Path) -> None:
    labels = [True, False, 3, -(2**63), 0.5, "yes", "5", None, ""]
    expected = [1, 0, 3, -(2**63), 0.5, "yes", "5", None, None]
    write(tmp_path / "a.jsonl", encode_jsonl([{"text": "t", "y": y} for y in labels]))
    found = [row.label for row in read(tmp_path, "a.jsonl", label_column="y")]
    assert (found, [type(label) for label in found]) == (expected, [type(x) for x in expected])
    nan = [{"text": "t", "y": y} for y in (1.5, float("nan"), None)]
    for suffix, encode in ((".parquet", encode_parquet), (".jsonl", encode_jsonl)):
        write(tmp_path / f"b{suffix}", encode(nan))
        found = [row.label for row in read(tmp_path, f"b{suffix}", label_column="y")]
        assert found == [1.5, None, None]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow"])
def test_null_and_blank_texts_are_skipped(tmp_path: Path, suffix: str) -> None:
    table = [
        {"text": text, "other": other}
        for text in ("one", None, "", " \t\u00a0")
        for other in (None, "\n", "two")
    ]
    write(tmp_path / f"a{suffix}", TABLES[suffix](table))
    name = f"a{suffix}"
    assert read(tmp_path, name) == [Row("one")] * 3
    assert read(tmp_path, name, text_pair_column="other") == [Row("one", "two")]
    both = read(tmp_path, name, text_column=["text", "other"])
    assert [row.text for row in both] == ["one", "one", "one", *["two"] * 4]


@pytest.mark.parametrize("suffix", [*TABLES])
def test_missing_columns(tmp_path: Path, suffix: str) -> None:
    name = f"a{suffix}"
    write(tmp_path / name, TABLES[suffix]([{"texts": "a", "label": "b", "n": "c"}]))
    where = {".jsonl": f"{name}:1", ".ndjson": f"{name}:1", ".csv": f"{name}:1",
             ".tsv": f"{name}:1"}.get(suffix, name)  # fmt: skip
    assert refused(ColumnError, tmp_path, name) == (
        f"{where}: no column 'text': did you mean 'texts'? allowed: texts, label, n"
    )
    assert refused(ColumnError, tmp_path, name, text_column="n", label_column="xyz") == (
        f"{where}: no column 'xyz': allowed: texts, label, n"
    )


def test_a_later_line_of_json_without_the_column(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '{"text": "a", "b": 1}\n\n{"b": 2}\n')
    assert refused(ColumnError, tmp_path, "a.jsonl") == "a.jsonl:3: no column 'text': allowed: b"


def test_a_column_that_stands_twice(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "n,n,text\n1,2,a\n")
    assert texts(tmp_path, "a.csv") == ["a"]
    assert refused(ArtifactError, tmp_path, "a.csv", label_column="n") == (
        "a.csv:1: column 'n' stands there twice: rename one"
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow"])
def test_columns_of_other_types(tmp_path: Path, suffix: str) -> None:
    name = f"a{suffix}"
    write(tmp_path / name, TABLES[suffix]([{"text": "t", "n": 3, "l": ["x"], "m": [0.5]}]))
    where = f"{name}:1" if suffix == ".jsonl" else f"{name}: row 1"
    assert refused(ArtifactError, tmp_path, name, text_column="n") == (
        f"{where}: column 'n' is int, not text: choose another"
    )
    assert refused(ArtifactError, tmp_path, name, text_pair_column="l") == (
        f"{where}: column 'l' is list, not text: choose another"
    )
    assert refused(ArtifactError, tmp_path, name, text_column="m") == (
        f"{where}: column 'm' holds a list with float in it, not words: choose another"
    )
    assert refused(ArtifactError, tmp_path, name, label_column="m") == (
        f"{where}: label [0.5] in column 'm' is a list of more than texts and integers: mend it,"
        " or choose another label_column"
    )
    assert refused(ArtifactError, tmp_path, name, text_column="l", text_pair_column="text") == (
        f"{where}: column 'l' holds a list of words, which is no part of a pair: take out"
        " text_pair_column"
    )


LISTS = [".jsonl", ".parquet", ".arrow"]


@pytest.mark.parametrize("suffix", LISTS)
def test_lists_of_words_with_tags(tmp_path: Path, suffix: str) -> None:
    table = [
        {"tokens": ["Old", "Mill", " ", "", "sings"], "tags": [*"abacb"], "intent": "play", "n": 1},
        {"tokens": ["", " "], "tags": ["a", "a"], "intent": "none", "n": 2},
        {"tokens": None, "tags": ["a"], "intent": "none", "n": 3},
        {"tokens": [], "tags": [], "intent": "none", "n": 4},
        {"tokens": ["Rain"], "tags": None, "intent": None, "n": 5},
    ]
    name = f"a{suffix}"
    write(tmp_path / name, TABLES[suffix](table))
    words = ("Old", "Mill", " ", "", "sings")
    text = "Old Mill    sings"
    tagged = read(tmp_path, name, text_column="tokens", label_column="tags")
    assert tagged == [Row(text, None, (*"abacb",), words), Row("Rain", words=("Rain",))]
    classes = read(tmp_path, name, text_column="tokens", label_column="intent")
    assert classes == [Row(text, None, "play", words), Row("Rain", words=("Rain",))]
    plain = read(tmp_path, name, text_column=("tokens", "tags"))
    assert plain == [
        Row(text, words=words), Row("a b a c b", words=(*"abacb",)),
        Row("a a", words=("a", "a")), Row("a", words=("a",)), Row("Rain", words=("Rain",)),
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", LISTS)
def test_tags_are_as_many_as_words(tmp_path: Path, suffix: str) -> None:
    name = f"a{suffix}"
    table = [{"tokens": ["a"], "tags": ["x"]}, {"tokens": ["b", "c"], "tags": ["x"]}]
    write(tmp_path / name, TABLES[suffix](table))
    where = f"{name}:2" if suffix == ".jsonl" else f"{name}: row 2"
    assert refused(ArtifactError, tmp_path, name, text_column="tokens", label_column="tags") == (
        f"{where}: 2 words in column 'tokens', but 1 tag in column 'tags': give each word one"
    )


@pytest.mark.parametrize("suffix", LISTS)
def test_lists_of_labels_of_a_text_are_sets(tmp_path: Path, suffix: str) -> None:
    labels = [["war", "art", "war"], [], None, [""], ["x"]]
    write(tmp_path / f"a{suffix}", TABLES[suffix]([{"text": "t", "y": y} for y in labels[:3]]))
    found = [row.label for row in read(tmp_path, f"a{suffix}", label_column="y")]
    assert found == [("art", "war"), (), None]
    write(tmp_path / f"b{suffix}", TABLES[suffix]([{"text": "t", "y": y} for y in labels]))
    where = "b.jsonl:4" if suffix == ".jsonl" else f"b{suffix}: row 4"
    assert refused(ArtifactError, tmp_path, f"b{suffix}", label_column="y").startswith(
        f"{where}: label [''] in column 'y' is a list of more than texts"
    )
    write(tmp_path / f"c{suffix}", TABLES[suffix]([{"text": "t", "y": [10, 9, 10]}]))
    assert read(tmp_path, f"c{suffix}", label_column="y") == [Row("t", None, ("10", "9"))]


@pytest.mark.parametrize("suffix", [*TABLES])
def test_text_that_holds_several_labels(tmp_path: Path, suffix: str) -> None:
    texts = ["war, art,,war", "7", "1,0.50", "", " , "]
    write(tmp_path / f"a{suffix}", TABLES[suffix]([{"text": "t", "y": y} for y in texts]))
    # Fields of .csv are quoted by the table's own writer.
    found = read(tmp_path, f"a{suffix}", label_column="y", label_separator=",")
    assert [row.label for row in found] == [("art", "war"), ("7",), ("0.50", "1"), None, None]


def test_texts_cut_into_words(tmp_path: Path) -> None:
    text = "  Old\tMill \u00a0 sings. "
    words = ("Old", "Mill", "sings.")
    write(tmp_path / "a.txt", f"{text}\n\nRain\n")
    write(tmp_path / "a.jsonl", encode_jsonl([{"text": text, "y": ["b", "a"]}]))
    row = Row("Old Mill sings.", words=words)
    assert read(tmp_path, "a.txt", split_words=True) == [row, Row("Rain", words=("Rain",))]
    labelled = read(tmp_path, "a.jsonl", split_words=True, label_column="y")
    assert labelled == [row._replace(label=("a", "b"))]


@pytest.mark.parametrize(
    ("label", "shown"), [("1e999", "inf"), (str(2**63), str(2**63)), ("-Infinity", "-inf")]
)
def test_labels_beyond_64_bits(tmp_path: Path, label: str, shown: str) -> None:
    write(tmp_path / "a.jsonl", '{"text": "a", "y": 1}\n{"text": "b", "y": ' + label + "}\n")
    assert refused(ArtifactError, tmp_path, "a.jsonl", label_column="y") == (
        f"a.jsonl:2: label {shown} in column 'y' is neither text nor a finite number of 64 bits:"
        " mend it, or choose another label_column"
    )


def test_the_options_are_checked() -> None:
    def wrong(**data: Any) -> str:
        with pytest.raises(ValidationError) as caught:
            TypeAdapter(Source).validate_python(data)
        return caught.value.errors()[0]["msg"]

    files = {"kind": "files", "files": ["a.txt"]}
    assert TypeAdapter(Source).validate_python(files) == Files(kind="files", files=("a.txt",))
    assert wrong(**files, text_column=["a", "b"], text_pair_column="c") == (
        "Value error, key 'text_pair_column' needs a single 'text_column', found 2: a, b"
    )
    assert wrong(**files, split_words=True, text_pair_column="c") == (
        "Value error, key 'split_words' is for single texts: take out 'text_pair_column'"
    )
    assert wrong(**files, label_separator="|") == (
        "Value error, key 'label_separator' needs 'label_column', whose text it cuts"
    )
    assert wrong(kind="files", files=[]).startswith("Tuple should have at least 1 item")
    assert wrong(kind="files", files=[""]).startswith("String should have at least 1 character")
    assert wrong(**files, text_column=[]).startswith("Input should be a valid string")
    assert wrong(**files, text_colum="a").startswith(
        "Value error, unknown key 'text_colum': did you mean 'text_column'?"
    )
    assert "python_docs" in wrong(kind="file", files=["a.txt"])
