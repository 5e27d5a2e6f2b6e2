"""Every format read back, and every kind of broken file with its whole message."""

from __future__ import annotations

import contextlib
import csv
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdpipe.errors import ArtifactError
from kdpipe.sources import Row, columns, formats
from tests.tables import (
    LINES,
    TABLE,
    TABLES,
    Table,
    encode_arrow,
    encode_arrow_stream,
    encode_csv,
    encode_jsonl,
    encode_parquet,
    encode_text,
    encode_tsv,
    gzip_,
    read,
    refused,
    texts,
    write,
    zstd,
)


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


def test_dictionary_and_large_strings_are_text(tmp_path: Path) -> None:
    values = pa.array(["a", "b", None, "a"])
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        table = pa.table({"text": values.cast(kind)})
        with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
            writer.write_table(table)
        assert texts(tmp_path, "a.arrow") == ["a", "b", "a"]


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
        ("a.tsv", b"text\tn\na\n", "a.tsv:2: 1 field, but the header has 2: mend the line"),
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


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Limits so small that a test may reach them; the bytes of the longest text."""
    assert (columns.MAX_TEXT, formats.MAX_LINE) == (16 << 20, 32 << 20)
    # Above csv's own limit, which is one for the process and which reading raises.
    before, small = csv.field_size_limit(1 << 17), 1 << 18
    monkeypatch.setattr(columns, "MAX_TEXT", small)
    monkeypatch.setattr(formats, "MAX_TEXT", small)
    monkeypatch.setattr(formats, "MAX_LINE", 2 * small)
    yield small
    csv.field_size_limit(before)


def test_very_long_texts(tmp_path: Path, most: int) -> None:
    longest, over = "e" * most, "é" * (most // 2) + "e"
    write(tmp_path / "a.txt", f"{longest}\r\n")
    write(tmp_path / "a.csv", f'text\n"{longest}"\n')
    assert texts(tmp_path, "a.txt", "a.csv") == [longest, longest]
    table = [{"text": "short"}, {"text": over}]
    long = f"{most + 1} bytes in column 'text', a text has at most {most}: cut it up"
    for name, data, message in (
        ("b.txt", encode_text(table), f"b.txt:2: {long}"),
        ("b.parquet", encode_parquet(table), f"b.parquet: row 2: {long}"),
        (
            "c.jsonl",
            encode_jsonl([{"text": longest * 2}]),
            f"c.jsonl:1: a line has at most {2 * most} bytes: cut it up",
        ),
    ):
        write(tmp_path / name, data)
        assert refused(ArtifactError, tmp_path, name) == message
    write(tmp_path / "d.csv", 'text\n"' + "a\n" * (most // 2 + 1) + '"\n')
    assert refused(ArtifactError, tmp_path, "d.csv") == (
        f"d.csv:2: not valid CSV (field larger than field limit ({most})): mend the line"
    )


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
