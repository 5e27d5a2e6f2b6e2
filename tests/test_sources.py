"""Every format, every way to name files, and every mistake with its whole message."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import random
import struct
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from kdpipe.errors import ArtifactError, KdpipeError, StorageError, UsageError, explain
from kdpipe.sources import Files, HubDataset, PythonDocs, Row, Source
from kdpipe.sources.files import MAX_TEXT
from kdpipe.sources.python_docs import sentences

Table = list[dict[str, Any]]

TABLE: Table = [
    {"text": "The kettle sings, then stops.", "other": "Tea is ready.", "score": 4.5},
    {"text": "Zwei Füße im Schnee ☃", "other": "It snowed.", "score": 0.25},
    {"text": " kept as it is ", "other": "Trailing blanks stay. ", "score": -1.0},
]
ALLOWED = ", ".join(
    [f".{kind}{codec}" for kind in ("txt", "jsonl", "ndjson", "csv", "tsv")
     for codec in ("", ".gz", ".zst")] + [".parquet", ".arrow"]
)  # fmt: skip


def encode_text(table: Table) -> bytes:
    return "".join(row["text"] + "\n" for row in table).encode()


def encode_jsonl(table: Table) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table).encode()


def encode_csv(table: Table) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, [*table[0]])
    writer.writeheader()
    writer.writerows(table)
    return file.getvalue().encode()


def encode_tsv(table: Table) -> bytes:
    lines = [[*table[0]], *([str(value) for value in row.values()] for row in table)]
    return "".join("\t".join(line) + "\n" for line in lines).encode()


def encode_parquet(table: Table) -> bytes:
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.Table.from_pylist(table), sink, row_group_size=2)
    return bytes(sink.getvalue())


def encode_arrow(table: Table, new: Callable[..., Any] = pa.ipc.new_file) -> bytes:
    data = pa.Table.from_pylist(table)
    sink = pa.BufferOutputStream()
    with new(sink, data.schema) as writer:
        writer.write_table(data, max_chunksize=2)
    return bytes(sink.getvalue())


def encode_arrow_stream(table: Table) -> bytes:
    return encode_arrow(table, pa.ipc.new_stream)


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def gzip_(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


LINES = {".txt": encode_text, ".jsonl": encode_jsonl, ".ndjson": encode_jsonl,
         ".csv": encode_csv, ".tsv": encode_tsv}  # fmt: skip
TABLES = {**LINES, ".parquet": encode_parquet, ".arrow": encode_arrow}
del TABLES[".txt"]


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def read(root: Path, *files: str, **columns: Any) -> list[Row]:
    return list(Files(kind="files", files=files, **columns).rows(root))


def texts(root: Path, *files: str) -> list[str]:
    return [row.text for row in read(root, *files)]


def refused(kind: type[KdpipeError], root: Path, *files: str, **columns: Any) -> str:
    """The message with which reading ends, without the folder."""
    with pytest.raises(kind) as caught:
        read(root, *files, **columns)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{root}/", "")


@pytest.mark.parametrize("suffix", [*LINES])
@pytest.mark.parametrize("codec", ["", ".gz", ".zst", ".GZ"])
def test_lines_plain_and_compressed(tmp_path: Path, suffix: str, codec: str) -> None:
    data = LINES[suffix](TABLE)
    packed = {"": data, ".gz": gzip_(data), ".zst": zstd(data)}[codec.lower()]
    name = f"a{suffix.upper() if codec.isupper() else suffix}{codec}"
    write(tmp_path / name, packed)
    assert texts(tmp_path, name) == [row["text"] for row in TABLE]


@pytest.mark.parametrize(("suffix", "encode"), [*TABLES.items(), (".arrow", encode_arrow_stream)])
def test_tables_with_pairs_and_labels(
    tmp_path: Path, suffix: str, encode: Callable[[Table], bytes]
) -> None:
    write(tmp_path / f"a{suffix}", encode(TABLE))
    rows = read(tmp_path, f"a{suffix}", text_pair_column="other", label_column="score")
    assert rows == [Row(row["text"], row["other"], row["score"]) for row in TABLE]
    both = read(tmp_path, f"a{suffix}", text_column=("other", "text"), label_column="score")
    assert both == [
        Row(row[column], None, row["score"]) for row in TABLE for column in ("other", "text")
    ]


@pytest.mark.parametrize("encode", [encode_parquet, encode_arrow, encode_arrow_stream])
def test_long_tables_go_through_batches(tmp_path: Path, encode: Callable[[Table], bytes]) -> None:
    suffix = ".parquet" if encode is encode_parquet else ".arrow"
    write(tmp_path / f"a{suffix}", encode([{"text": f"row {n}"} for n in range(2500)]))
    assert texts(tmp_path, f"a{suffix}") == [f"row {n}" for n in range(2500)]


def test_concatenated_members_are_read_to_the_end(tmp_path: Path) -> None:
    for codec, pack in ((".gz", gzip_), (".zst", zstd)):
        write(tmp_path / f"a.txt{codec}", pack(b"one\ntw") + pack(b"o\nthree\n"))
        assert texts(tmp_path, f"a.txt{codec}") == ["one", "two", "three"]


def test_text_lines_keep_all_but_their_end(tmp_path: Path) -> None:
    odd = "  \"quoted\", 'odd'\tand\ttabs \n\u2028sep\x0cfeed\rlast\r"
    write(tmp_path / "a.txt", "\ufefffirst\r\n\n \t \n" + odd)
    assert texts(tmp_path, "a.txt") == [
        "first",
        "  \"quoted\", 'odd'\tand\ttabs ",
        "\u2028sep\x0cfeed\rlast",
    ]


def test_text_ignores_column_options(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "text\nline\n")
    rows = read(tmp_path, "a.txt", text_column="x", text_pair_column="y", label_column="z")
    assert rows == [Row("text"), Row("line")]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_a_byte_order_mark_is_dropped(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"a{suffix}", b"\xef\xbb\xbf" + LINES[suffix]([{"text": "a"}]))
    assert texts(tmp_path, f"a{suffix}") == ["a"]


def test_tsv_does_not_know_quotes(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", 'text\tn\r\n"open\t1\n\nsay ""hi""\t2\n\t3\n')
    rows = read(tmp_path, "a.tsv", label_column="n")
    assert rows == [Row('"open', None, 1), Row('say ""hi""', None, 2)]


def test_csv_quotes_hold_commas_quotes_and_line_ends(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", 'n,text\r\n1,"a, ""b""\r\nc\n\nd"\r\n\r\n2,"\ttab "\n3,""\n')
    rows = read(tmp_path, "a.csv", label_column="n")
    assert rows == [Row('a, "b"\r\nc\n\nd', None, 1), Row("\ttab ", None, 2)]


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


def test_dictionary_and_large_strings_are_text(tmp_path: Path) -> None:
    values = pa.array(["a", "b", None, "a"])
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        table = pa.table({"text": values.cast(kind)})
        with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
            writer.write_table(table)
        assert texts(tmp_path, "a.arrow") == ["a", "b", "a"]


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


@pytest.mark.parametrize("suffix", [*TABLES])
def test_missing_columns(tmp_path: Path, suffix: str) -> None:
    name = f"a{suffix}"
    write(tmp_path / name, TABLES[suffix]([{"texts": "a", "label": "b", "n": "c"}]))
    where = {".jsonl": f"{name}:1", ".ndjson": f"{name}:1", ".csv": f"{name}:1",
             ".tsv": f"{name}:1"}.get(suffix, name)  # fmt: skip
    assert refused(ArtifactError, tmp_path, name) == (
        f"{where}: no column 'text': did you mean 'texts'? allowed: texts, label, n"
    )
    assert refused(ArtifactError, tmp_path, name, text_column="n", label_column="xyz") == (
        f"{where}: no column 'xyz': allowed: texts, label, n"
    )


def test_a_later_line_of_json_without_the_column(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '{"text": "a", "b": 1}\n\n{"b": 2}\n')
    assert refused(ArtifactError, tmp_path, "a.jsonl") == "a.jsonl:3: no column 'text': allowed: b"


def test_a_column_that_stands_twice(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "n,n,text\n1,2,a\n")
    assert texts(tmp_path, "a.csv") == ["a"]
    assert refused(ArtifactError, tmp_path, "a.csv", label_column="n") == (
        "a.csv:1: column 'n' stands there twice: rename one"
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow"])
def test_columns_of_other_types(tmp_path: Path, suffix: str) -> None:
    name = f"a{suffix}"
    write(tmp_path / name, TABLES[suffix]([{"text": "t", "n": 3, "l": ["x"]}]))
    where = f"{name}:1" if suffix == ".jsonl" else f"{name}: row 1"
    assert refused(ArtifactError, tmp_path, name, text_column="n") == (
        f"{where}: column 'n' is int, not text: choose another"
    )
    assert refused(ArtifactError, tmp_path, name, text_pair_column="l") == (
        f"{where}: column 'l' is list, not text: choose another"
    )
    assert refused(ArtifactError, tmp_path, name, label_column="l") == (
        f"{where}: label ['x'] in column 'l' is neither text nor a finite number of 64 bits:"
        " mend it, or choose another label_column"
    )


@pytest.mark.parametrize(
    ("label", "shown"), [("1e999", "inf"), (str(2**63), str(2**63)), ("-Infinity", "-inf")]
)
def test_labels_beyond_64_bits(tmp_path: Path, label: str, shown: str) -> None:
    write(tmp_path / "a.jsonl", '{"text": "a", "y": 1}\n{"text": "b", "y": ' + label + "}\n")
    assert refused(ArtifactError, tmp_path, "a.jsonl", label_column="y") == (
        f"a.jsonl:2: label {shown} in column 'y' is neither text nor a finite number of 64 bits:"
        " mend it, or choose another label_column"
    )


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"ok\nol\xe9\n", "a.txt:2: byte 0xe9 is not UTF-8: convert the file"),
        ("a.csv", b"text\nol\xff\n", "a.csv:2: byte 0xff is not UTF-8: convert the file"),
        ("a.txt", b"\xff\xfea\0\n\0", "a.txt:1: byte 0xff is not UTF-8: convert the file"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "\\ud83d"}\n',
            "a.jsonl:2: column 'text' has half of a surrogate pair, which is no text: mend it",
        ),
        (
            "a.jsonl",
            b'\n{"text": "a"\n',
            "a.jsonl:2: not valid JSON (Expecting ',' delimiter): mend the line",
        ),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: a JSON list: write one object with columns a line"),
        ("a.tsv", b"text\tn\na\n", "a.tsv:2: 1 fields, but the header has 2: mend the line"),
        (
            "a.csv",
            b'text,n\n"a\nb",1\nc,2,3\n',
            "a.csv:4: 3 fields, but the header has 2: mend the line",
        ),
        (
            "a.csv",
            b'text\na\n"b"c\n',
            "a.csv:3: not valid CSV (',' expected after '\"'): mend the line",
        ),
        (
            "a.csv",
            b'text\n"a\nb\n',
            "a.csv:2: not valid CSV (unexpected end of data): mend the line",
        ),
    ],
)
def test_broken_lines(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    write(tmp_path / name, data)
    assert refused(ArtifactError, tmp_path, name) == message
    write(tmp_path / f"{name}.zst", zstd(data))
    assert refused(ArtifactError, tmp_path, f"{name}.zst") == message.replace(name, f"{name}.zst")


def test_deep_json_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '{"text": ' + "[" * 200_000)
    assert refused(ArtifactError, tmp_path, "a.jsonl").startswith("a.jsonl:1: not valid JSON (")


def invalid_strings() -> Any:
    """An array of three strings of which the second is not UTF-8."""
    offsets = pa.py_buffer(struct.pack("4i", 0, 1, 2, 3))
    return pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xffb")])


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_tables_that_are_not_utf8(tmp_path: Path, name: str) -> None:
    table = pa.table({"text": invalid_strings()})
    if name == "a.parquet":
        pa.parquet.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_file(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    assert refused(ArtifactError, tmp_path, name) == (
        f"{name}: row 2 is no text ('utf-8' codec can't decode byte 0xff in position 0: invalid"
        " start byte): mend the file"
    )


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt.gz", gzip_(b"word " * 99)[:-5], "Truncated compressed stream"),
        ("a.txt.gz", b"no gzip", "zlib inflate failed: incorrect header check"),
        ("a.csv.zst", zstd(b"text\n" * 99)[:-5], "Truncated compressed stream"),
        ("a.csv.zst", b"no zstd at all", "ZSTD decompress failed: Unknown frame descriptor"),
        (
            "a.parquet",
            encode_parquet(TABLE)[:-9],
            "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a"
            " parquet file.",
        ),
        ("a.arrow", encode_arrow(TABLE)[:-9], "Not an Arrow file"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    write(tmp_path / name, data)
    message = f"{name} is damaged ({reason}): make or fetch it again"
    assert refused(ArtifactError, tmp_path, name) == message


@pytest.mark.parametrize("encode", [encode_parquet, encode_arrow, encode_arrow_stream])
def test_any_cut_or_flipped_byte_is_an_error_or_rows(
    tmp_path: Path, encode: Callable[[Table], bytes]
) -> None:
    """Never a traceback of another library, and never the end of the process."""
    data = encode(TABLE)
    suffix = ".parquet" if encode is encode_parquet else ".arrow"
    chance = random.Random(0)
    for _ in range(150):
        place = chance.randrange(len(data))
        flipped = data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
        for damaged in (flipped, data[:place]):
            write(tmp_path / f"a{suffix}", damaged)
            with contextlib.suppress(ArtifactError):
                read(tmp_path, f"a{suffix}", label_column="score")


def test_offsets_beyond_the_text_are_damage(tmp_path: Path) -> None:
    data = encode_arrow([{"text": "abc"}, {"text": "defg"}])
    place = data.index(struct.pack("3i", 0, 3, 7))
    write(tmp_path / "a.arrow", data[: place + 8] + struct.pack("i", 1 << 28) + data[place + 12 :])
    assert refused(ArtifactError, tmp_path, "a.arrow") == (
        "a.arrow is damaged (Offset invariant failure: offset for slot 2 out of bounds: 268435456"
        " > 7): make or fetch it again"
    )


def test_very_long_texts(tmp_path: Path) -> None:
    most, over = "e" * MAX_TEXT, "é" * (MAX_TEXT // 2) + "e"
    write(tmp_path / "a.txt", f"{most}\r\n")
    write(tmp_path / "a.csv", f'text\n"{most}"\n')
    assert texts(tmp_path, "a.txt", "a.csv") == [most, most]
    table = [{"text": "short"}, {"text": over}]
    long = f"{MAX_TEXT + 1} bytes in column 'text', a text has at most {MAX_TEXT}: cut it up"
    for name, data, message in (
        ("b.txt", encode_text(table), f"b.txt:2: {long}"),
        ("b.parquet", encode_parquet(table), f"b.parquet: row 2: {long}"),
        (
            "c.jsonl",
            encode_jsonl([{"text": most * 2}]),
            f"c.jsonl:1: a line has at most {2 * MAX_TEXT} bytes: cut it up",
        ),
    ):
        write(tmp_path / name, data)
        assert refused(ArtifactError, tmp_path, name) == message
    write(tmp_path / "d.csv", 'text\n"' + "a\n" * (MAX_TEXT // 2 + 1) + '"\n')
    assert refused(ArtifactError, tmp_path, "d.csv") == (
        f"d.csv:2: not valid CSV (field larger than field limit ({MAX_TEXT})): mend the line"
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
    assert wrong(kind="files", files=[]).startswith("Tuple should have at least 1 item")
    assert wrong(kind="files", files=[""]).startswith("String should have at least 1 character")
    assert wrong(**files, text_column=[]).startswith("Input should be a valid string")
    assert wrong(**files, text_colum="a").startswith(
        "Value error, unknown key 'text_colum': did you mean 'text_column'?"
    )
    assert "python_docs" in wrong(kind="file", files=["a.txt"])


KEPT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(KEPT, KEPT), min_size=1, max_size=6))
def test_any_text_survives_json_and_csv(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    table = [{"text": text, "other": other} for text, other in pairs]
    for name, data in (("a.jsonl", encode_jsonl(table)), ("a.csv", encode_csv(table))):
        write(tmp_path / name, data)
        assert read(tmp_path, name, text_pair_column="other") == [Row(*pair) for pair in pairs]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(KEPT.filter(lambda text: not set(text) & set("\t\r\n")), min_size=1, max_size=6))
def test_any_line_survives_text_and_tsv(tmp_path: Path, lines: list[str]) -> None:
    # A byte order mark that begins a file is not part of its text.
    lines = ["first", *lines]
    table = [{"text": text} for text in lines]
    for name, data in (("a.txt", encode_text(table)), ("a.tsv", encode_tsv(table))):
        write(tmp_path / name, data)
        assert texts(tmp_path, name) == lines


Load = Callable[..., Iterator[dict[str, Any]]]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Load], None]:
    """Puts a small stand-in for the package `datasets` where imports find it."""

    def put(load: Load) -> None:
        package, errors = types.ModuleType("datasets"), types.ModuleType("datasets.exceptions")
        vars(package).update(load_dataset=load, exceptions=errors)
        vars(errors).update(DatasetsError=type("DatasetsError", (Exception,), {}))
        monkeypatch.setitem(sys.modules, "datasets", package)
        monkeypatch.setitem(sys.modules, "datasets.exceptions", errors)

    return put


def test_hub_rows_are_streamed(tmp_path: Path, install: Callable[[Load], None]) -> None:
    calls: list[tuple[Any, ...]] = []
    given_out: list[int] = []

    def load(*names: Any, **options: Any) -> Iterator[dict[str, Any]]:
        calls.append((names, options))
        for number, row in enumerate(TABLE):
            given_out.append(number)
            yield {**row, "extra": object()}

    install(load)
    source = HubDataset(
        kind="hub", dataset="some/set", name="en", split="dev", revision="v1",
        text_pair_column="other", label_column="score",
    )  # fmt: skip
    rows = source.rows(tmp_path)
    assert next(rows) == Row(TABLE[0]["text"], TABLE[0]["other"], 4.5)
    assert given_out == [0]
    assert [*rows] == [Row(row["text"], row["other"], row["score"]) for row in TABLE[1:]]
    options = {"split": "dev", "revision": "v1", "streaming": True}
    assert calls == [(("some/set", "en"), options)]


def test_hub_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError) as caught:
        next(HubDataset(kind="hub", dataset="some/set").rows(tmp_path))
    message = "source hub needs the package 'datasets': pip install 'kdpipe[data]'"
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("Couldn't reach 'some/set'\n on the Hub"), "Couldn't reach 'some/set'"),
        (ValueError("Bad split: trian."), "Bad split: trian."),
        (FileNotFoundError("Dataset 'some/set' doesn't exist"), "Dataset 'some/set' doesn't exist"),
        (RuntimeError("Dataset scripts are no longer supported"),
         "Dataset scripts are no longer supported"),
        (TimeoutError(), "TimeoutError"),
    ],
)  # fmt: skip
def test_hub_that_cannot_be_read(
    tmp_path: Path, install: Callable[[Load], None], error: Exception, reason: str
) -> None:
    def load(*names: Any, **options: Any) -> Iterator[dict[str, Any]]:
        yield TABLE[0]
        raise error

    install(load)
    rows = HubDataset(kind="hub", dataset="some/set", revision="v1").rows(tmp_path)
    assert next(rows) == Row(TABLE[0]["text"])
    with pytest.raises(ArtifactError) as caught:
        next(rows)
    assert str(caught.value) == (
        f"data set some/set, train, revision v1 cannot be read ({reason}): check its names, and"
        " that the hub can be reached"
    )


def test_hub_errors_of_the_package_and_of_the_disk(
    tmp_path: Path, install: Callable[[Load], None]
) -> None:
    def broken(*names: Any, **options: Any) -> Iterator[dict[str, Any]]:
        raise vars(sys.modules["datasets.exceptions"])["DatasetsError"]("no such config")

    def full(*names: Any, **options: Any) -> Iterator[dict[str, Any]]:
        raise OSError(28, "No space left on device")

    source = HubDataset(kind="hub", dataset="some/set", name="en")
    install(broken)
    with pytest.raises(ArtifactError, match=r"^data set some/set, en, train .*\(no such config\)"):
        next(source.rows(tmp_path))
    install(full)
    with pytest.raises(OSError, match="No space left") as caught:
        next(source.rows(tmp_path))
    assert not isinstance(caught.value, StorageError)


def test_hub_rows_are_checked(tmp_path: Path, install: Callable[[Load], None]) -> None:
    source = HubDataset(kind="hub", dataset="some/set")
    install(lambda *names, **options: iter([{"txt": "a", "id": 1}]))
    with pytest.raises(ArtifactError) as caught:
        next(source.rows(tmp_path))
    assert str(caught.value) == (
        "data set some/set, train: row 1: no column 'text': did you mean 'txt'? allowed: txt, id"
    )
    install(lambda *names, **options: iter([{"text": None}]))
    with pytest.raises(ArtifactError) as caught:
        next(source.rows(tmp_path))
    assert str(caught.value) == (
        "data set some/set, train is empty: no row has text; choose another split"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Open the old gate slowly", ["Open the old gate slowly."]),
        ("open the old gate slowly", []),
        ("Open the gate.", []),
        (
            "Close the gate when\nthe last  hen is in. Then go home,\ni.e. to Dr. Hill's farm! A.",
            ["Close the gate when the last hen is in.", "Then go home, i.e. to Dr. Hill's farm!"],
        ),
        (
            "Count all the sheep.\n\n>>> count(sheep)\nSheep. Forty two were counted.\n\nThen go"
            " to sleep at once.",
            ["Count all the sheep.", "Then go to sleep at once."],
        ),
        (
            "Feed them like this::\n\n    Give each hen a good handful.\n\n    Then close the door"
            " again.\n\nThe hens will thank you.",
            ["The hens will thank you."],
        ),
        (
            "How To Feed The Hens\n====================\n\n.. note:: This line is a directive.\n\n"
            "See :class:`~farm.Hen` and ``grain`` for *all* the details [2].",
            ["See farm.Hen and grain for all the details."],
        ),
        (
            "| a table with | some cells here. |\n+----+\nname    the name of the hen here.\n"
            "The table above is left out.",
            ["The table above is left out."],
        ),
        (
            "Arguments are these:\n  - One hen that is\n    laying eggs now.\n  - Two cocks that do"
            " not lay.\n  hen -- The hen that is asked for.\n  :returns: A basket full of eggs.",
            ["One hen that is laying eggs now.", "Two cocks that do not lay.",
             "The hen that is asked for.", "A basket full of eggs."],
        ),
        ("Call hen.lay(x=1, y=[2]) + {3: 4} now, it is == to 5.", []),
        ("It runs far too long" + " and on" * 60 + ".", []),
        ('He asked "are there eggs?" She said "no." "x" is a letter too.',
         ['He asked "are there eggs?"', '"x" is a letter too.'][:1]),
        ("See `the page of the farm <https://farm.example>`_ for opening hours.",
         ["See the page of the farm for opening hours."]),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    assert [*sentences(text)] == expected


def test_python_docs_reads_files_without_running_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    lib = tmp_path / "stdlib"
    write(
        lib / "b.py",
        '"""The second module of all."""\nraise SystemExit("run")\nclass A:\n'
        '    """A class with one method."""\n    async def f(self):\n        "\\d Not a capital'
        ' first."\n        def g(): "An inner function of it."\ndef h():\n    """The very last of'
        ' these."""\n',
    )
    write(lib / "a/z.py", b'# coding: latin-1\n"""The na\xefve module goes first."""\n')
    write(
        lib / "pydoc_data/topics.py",
        "topics = {'x': 'One topic\\n*********\\n\\nThe \"x\" statement is quite rare.\\n',\n"
        " 'y': 'Nobody has seen it in years.'}\n",
    )
    for skipped in ("test/a.py", "a/tests/a.py", "site-packages/a.py", "idlelib/idle_test/a.py"):
        write(lib / skipped, '"""This is not to be read."""')
    write(lib / "test/broken.py", "def (:")
    rows = [*PythonDocs(kind="python_docs").rows(tmp_path)]
    assert rows == [
        Row("The naïve module goes first."),
        Row("The second module of all."),
        Row("A class with one method."),
        Row("An inner function of it."),
        Row("The very last of these."),
        Row('The "x" statement is quite rare.'),
        Row("Nobody has seen it in years."),
    ]


def test_python_docs_without_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "lib.zip"))
    with pytest.raises(ArtifactError) as caught:
        next(PythonDocs(kind="python_docs").rows(tmp_path))
    assert str(caught.value) == (
        "this Python keeps its standard library in no .py files, so source python_docs has no text:"
        " use a full CPython, or a source of kind 'files'"
    )


def test_python_docs_of_this_python(tmp_path: Path) -> None:
    before = {*sys.modules}
    rows = [*PythonDocs(kind="python_docs").rows(tmp_path)]
    assert {name for name in {*sys.modules} - before if not name.startswith("encodings.")} == set()
    found = {row.text for row in rows}
    assert 12_000 < len(found) < 25_000
    assert all(row.text_pair is None and row.label is None for row in rows)
    assert 'The "pass" statement' not in found
    assert all(20 <= len(text) <= 400 and "  " not in text for text in found)
    assert not any(mark in text for text in found for mark in ("::=", "\n", "\t"))
    assert sum(text[-1] == "." for text in found) > 0.97 * len(found)
