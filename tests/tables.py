"""Small tables, the bytes of them in every format, and what sources make of such files."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest

from kdpipe.errors import KdpipeError
from kdpipe.sources import Files, Row

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
