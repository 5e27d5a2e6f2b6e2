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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from kdpipe.errors import ArtifactError
from kdpipe.progress import counted
from kdpipe.sources.columns import MAX_TEXT, ColumnError, Columns
from kdpipe.sources.row import Label

MAX_LINE = 2 * MAX_TEXT
"""Bytes of one line."""
_BATCH = 1024
_BUFFER = 1 << 20
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d+)?([eE][-+]?\d+)?", re.ASCII)

Record = tuple[str, Mapping[str, Any]]
"""Where it stands (`<file>:<line>` or `<file>: row <number>`), and the values by column."""
Reader = Callable[[Path, Columns], Iterator[Record]]


def suffix_of(path: Path) -> str:
    """What the name says about the format, in lower case: `.csv`, `.csv.gz`."""
    last = path.suffix.lower()
    return path.with_suffix("").suffix.lower() + last if last in COMPRESSED else last


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


def numbered(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends (LF or CR LF), without a byte order mark."""
    number, rest = 0, b""
    with opened(path) as file:
        while part := file.read(_BUFFER):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                number += 1
                yield number, _text(line, path, number) + "\n"
            if len(rest) > MAX_LINE:
                _text(rest, path, number + 1)
    if rest:
        yield number + 1, _text(rest, path, number + 1)


def bare_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends."""
    for number, line in numbered(path):
        yield number, line.removesuffix("\n").removesuffix("\r")


def _text(line: bytes, path: Path, number: int) -> str:
    if len(line) > MAX_LINE:
        limit = f"a line has at most {MAX_LINE} bytes"
        raise ArtifactError(f"{path}:{number}: {limit}: cut it up")
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{path}:{number}: byte 0x{line[error.start]:02x} is not UTF-8: convert the file"
        ) from None


def opened(path: Path) -> io.BufferedReader:
    """The bytes of a file, unpacked."""
    codec = COMPRESSED.get(path.suffix.lower())
    if codec is None:
        return path.open("rb")
    return io.BufferedReader(pa.input_stream(str(path), compression=codec))


def read_txt(path: Path, columns: Columns) -> Iterator[Record]:
    """Each line is a text, whatever columns are asked for."""
    for number, line in bare_lines(path):
        yield f"{path}:{number}", {"text": line}


def _read_jsonl(path: Path, columns: Columns) -> Iterator[Record]:
    for number, line in numbered(path):
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
    fields = ((number, line.split("\t") if line else []) for number, line in bare_lines(path))
    return _delimited(path, columns, fields)


def _read_csv(path: Path, columns: Columns) -> Iterator[Record]:
    return _delimited(path, columns, _csv_fields(path))


def _csv_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    # The limit is one for the whole process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_TEXT))
    reader = csv.reader((line for _, line in numbered(path)), strict=True)
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
    # Text that holds several labels is no number, however it is written.
    label = columns.label_column if columns.label_separator is None else None
    for number, fields in lines:
        where = f"{path}:{number}"
        if not fields:
            continue
        if header is None:
            header = fields
            _require(header, columns.needed, columns.optional, where)
            continue
        if len(fields) != len(header):
            counts = f"{counted(len(fields), 'field')}, but the header has {len(header)}"
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


def _require(
    names: list[str], needed: Sequence[str], optional: Collection[str], where: str
) -> list[str]:
    """The columns to read."""
    wanted = [name for name in needed if name in names or name not in optional]
    for column in wanted:
        if column not in names:
            raise ColumnError(where, column, names)
        if names.count(column) > 1:
            raise ArtifactError(f"{where}: column {column!r} stands there twice: rename one")
    return wanted


def read_batches(
    path: Path, needed: Sequence[str], optional: Collection[str] = (), rows: int = _BATCH
) -> Iterator[dict[str, pa.Array]]:
    """Columns of a `.parquet` or `.arrow` file, batch by batch, with bounded memory.

    A batch of a `.parquet` file has `rows` rows, one of an `.arrow` file is as it was written.

    Raises:
        ArtifactError: a column that is not there, or there twice.
    """
    if suffix_of(path) == ".parquet":
        # Otherwise a whole row group is read at a time.
        with pa.parquet.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
            wanted = _require(file.schema_arrow.names, needed, optional, str(path))
            yield from _checked(file.iter_batches(batch_size=rows, columns=wanted), wanted)
        return
    with pa.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            reader = batches = pa.ipc.open_stream(source)
        wanted = _require(reader.schema.names, needed, optional, str(path))
        yield from _checked(batches, wanted)


def _checked(batches: Iterable[Any], columns: list[str]) -> Iterator[dict[str, pa.Array]]:
    """Checked, since bad offsets would end the process."""
    for batch in batches:
        arrays = {name: batch.column(name) for name in columns}
        for array in arrays.values():
            try:
                array.validate(full=True)
            except pa.ArrowInvalid as error:
                # Text that is not UTF-8 is found later, with the number of its row.
                if "UTF8" not in str(error):
                    raise
        yield arrays


def records(batch: Mapping[str, pa.Array], path: Path, after: int) -> Iterator[Record]:
    """Python values of a batch, row by row; `after` rows came before it."""
    for number, scalars in enumerate(zip(*batch.values(), strict=True), start=after + 1):
        where = f"{path}: row {number}"
        try:
            values = [scalar.as_py() for scalar in scalars]
        except ValueError as error:
            reason = first_line(error)
            raise ArtifactError(f"{where} is no text ({reason}): mend the file") from None
        yield where, dict(zip(batch, values, strict=True))


def _read_table(path: Path, columns: Columns) -> Iterator[Record]:
    number = 0
    for batch in read_batches(path, columns.needed, columns.optional):
        yield from records(batch, path, number)
        number += len(next(iter(batch.values())))


COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_LINES: dict[str, Reader] = {
    ".txt": read_txt,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
READERS: dict[str, Reader] = {
    **{kind + codec: read for kind, read in _LINES.items() for codec in ("", *COMPRESSED)},
    ".parquet": _read_table,
    ".arrow": _read_table,
}
