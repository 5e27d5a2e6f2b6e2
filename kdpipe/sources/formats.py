"""Every file format as records: where each stands, and its values by column.

`.txt`, `.jsonl`, `.csv` and `.tsv` (UTF-8, also as `.gz` or `.zst`) are read line by line,
`.parquet` and `.arrow` batch by batch: memory stays flat however large a file is.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from kdpipe.config import nearest
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.sources.columns import MAX_TEXT, Columns
from kdpipe.sources.row import Label

MAX_LINE = 2 * MAX_TEXT
"""Bytes of one line."""
_BATCH = 1024
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d+)?([eE][-+]?\d+)?", re.ASCII)

Record = tuple[str, Mapping[str, Any]]
"""Where it stands (`<file>:<line>` or `<file>: row <number>`), and the values by column."""
Reader = Callable[[Path, Columns], Iterator[Record]]


def suffix_of(path: Path) -> str:
    """What the name says about the format, in lower case: `.csv`, `.csv.gz`."""
    last = path.suffix.lower()
    return path.with_suffix("").suffix.lower() + last if last in _CODECS else last


def reader_of(path: Path) -> Reader:
    """How to read a file, by its name; raises UsageError for a format that is not known."""
    suffix = suffix_of(path)
    if suffix not in READERS:
        raise UsageError(f"{path}: unknown format {suffix!r}: {nearest(suffix, [*READERS])}")
    return READERS[suffix]


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """What pyarrow cannot decode becomes an ArtifactError that names the file."""
    try:
        yield
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        # pyarrow reports what it cannot decode as an OSError without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = first_line(error)
        raise ArtifactError(f"{path} is damaged ({reason}): make or fetch it again") from None


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends (LF or CR LF), without a byte order mark."""
    with _open(path) as file:
        number = 0
        while raw := file.readline(MAX_LINE + 1):
            number += 1
            if len(raw) > MAX_LINE:
                limit = f"a line has at most {MAX_LINE} bytes"
                raise ArtifactError(f"{path}:{number}: {limit}: cut it up")
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                yield number, raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ArtifactError(
                    f"{path}:{number}: byte 0x{raw[error.start]:02x} is not UTF-8: convert the file"
                ) from None


def _open(path: Path) -> io.BufferedReader:
    codec = _CODECS.get(path.suffix.lower())
    if codec is None:
        return path.open("rb")
    return io.BufferedReader(pa.input_stream(str(path), compression=codec))


def read_txt(path: Path, columns: Columns) -> Iterator[Record]:
    """Each line is a text, whatever columns are asked for."""
    for number, line in _lines(path):
        yield f"{path}:{number}", {"text": line.removesuffix("\n").removesuffix("\r")}


def _read_jsonl(path: Path, columns: Columns) -> Iterator[Record]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or first_line(error)
            raise ArtifactError(f"{where}: not valid JSON ({reason}): mend the line") from None
        if not isinstance(record, dict):
            found = type(record).__name__
            raise ArtifactError(f"{where}: a JSON {found}: write one object with columns a line")
        yield where, record


def _read_tsv(path: Path, columns: Columns) -> Iterator[Record]:
    lines = ((number, line.removesuffix("\n").removesuffix("\r")) for number, line in _lines(path))
    fields = ((number, line.split("\t") if line else []) for number, line in lines)
    return _delimited(path, columns, fields)


def _read_csv(path: Path, columns: Columns) -> Iterator[Record]:
    return _delimited(path, columns, _csv_fields(path))


def _csv_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    # The limit is one for the whole process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_TEXT))
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    number = 1
    try:
        for fields in reader:
            yield number, fields
            number = reader.line_num + 1
    except csv.Error as error:
        raise ArtifactError(f"{path}:{number}: not valid CSV ({error}): mend the line") from None


def _delimited(
    path: Path, columns: Columns, lines: Iterable[tuple[int, list[str]]]
) -> Iterator[Record]:
    """Records under the header line; a label that is written as JSON writes numbers is a number."""
    header: list[str] | None = None
    label = columns.label_column
    for number, fields in lines:
        where = f"{path}:{number}"
        if not fields:
            continue
        if header is None:
            header = fields
            _require(header, columns, where)
            continue
        if len(fields) != len(header):
            counts = f"{len(fields)} fields, but the header has {len(header)}"
            raise ArtifactError(f"{where}: {counts}: mend the line")
        record: dict[str, Any] = dict(zip(header, fields, strict=True))
        if label is not None:
            record[label] = _number(record[label])
        yield where, record


def _number(field: str) -> Label:
    match = _NUMBER.fullmatch(field)
    if match is None:
        return field
    return float(field) if match[2] or match[3] else int(field)


def _require(names: list[str], columns: Columns, where: str) -> None:
    for column in columns.needed:
        if column not in names:
            raise ArtifactError(f"{where}: no column {column!r}: {nearest(column, names)}")
        if names.count(column) > 1:
            raise ArtifactError(f"{where}: column {column!r} stands there twice: rename one")


def _read_parquet(path: Path, columns: Columns) -> Iterator[Record]:
    with pa.parquet.ParquetFile(path) as file:
        _require(file.schema_arrow.names, columns, str(path))
        batches = file.iter_batches(batch_size=_BATCH, columns=columns.needed)
        yield from _records(batches, columns, path)


def _read_arrow(path: Path, columns: Columns) -> Iterator[Record]:
    with pa.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            reader = batches = pa.ipc.open_stream(source)
        _require(reader.schema.names, columns, str(path))
        yield from _records(batches, columns, path)


def _records(batches: Iterable[Any], columns: Columns, path: Path) -> Iterator[Record]:
    """Python values, row by row; checked first, since bad offsets would end the process."""
    number = 0
    for batch in batches:
        arrays = [batch.column(name) for name in columns.needed]
        for array in arrays:
            try:
                array.validate(full=True)
            except pa.ArrowInvalid as error:
                # Text that is not UTF-8 is found below, with the number of its row.
                if "UTF8" not in str(error):
                    raise
        for scalars in zip(*arrays, strict=True):
            number += 1
            where = f"{path}: row {number}"
            try:
                values = [scalar.as_py() for scalar in scalars]
            except ValueError as error:
                reason = first_line(error)
                raise ArtifactError(f"{where} is no text ({reason}): mend the file") from None
            yield where, dict(zip(columns.needed, values, strict=True))


_CODECS = {".gz": "gzip", ".zst": "zstd"}
_LINES: dict[str, Reader] = {
    ".txt": read_txt,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
READERS: dict[str, Reader] = {
    **{kind + codec: read for kind, read in _LINES.items() for codec in ("", *_CODECS)},
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
