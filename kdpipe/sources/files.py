"""Text in local files: which files a pipeline names, and the rows that each format holds.

`.txt`, `.jsonl`, `.csv` and `.tsv` (UTF-8, also as `.gz` or `.zst`) are read line by line,
`.parquet` and `.arrow` batch by batch: memory stays flat however large a file is.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import glob
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
from pydantic import Field, StringConstraints, model_validator

from kdpipe.config import Frozen, nearest
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.sources.row import Label, Row

MAX_TEXT = 16 << 20
"""Bytes of one text in UTF-8."""
_MAX_LINE = 2 * MAX_TEXT
_BATCH = 1024
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d+)?([eE][-+]?\d+)?", re.ASCII)

Text = Annotated[str, StringConstraints(min_length=1)]
Record = tuple[str, Mapping[str, Any]]
"""Where it stands (`<file>:<line>` or `<file>: row <number>`), and the values by column."""


class Columns(Frozen):
    """Which columns of a table become rows of text."""

    text_column: Text | Annotated[tuple[Text, ...], Field(min_length=1)] = "text"
    """The text; of several columns each gives a row of its own."""
    text_pair_column: Text | None = None
    """The second text of a pair that the model reads together; only with a single `text_column`."""
    label_column: Text | None = None
    """Number or text, kept beside the row; null, NaN and empty are no label."""

    @model_validator(mode="after")
    def _pair_has_one_text(self) -> Columns:
        if self.text_pair_column is not None and len(self.text_columns) > 1:
            raise ValueError(
                "key 'text_pair_column' needs a single 'text_column', found"
                f" {len(self.text_columns)}: {', '.join(self.text_columns)}"
            )
        return self

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The text columns, also where there is one."""
        return (self.text_column,) if isinstance(self.text_column, str) else self.text_column

    @property
    def needed(self) -> list[str]:
        """All columns to read, each once: text, pair, label."""
        names = [*self.text_columns, self.text_pair_column, self.label_column]
        return list(dict.fromkeys(name for name in names if name is not None))

    def convert(self, record: Mapping[str, Any], where: str) -> Iterator[Row]:
        """The rows of one record; null and blank texts, and pairs with such a text, give none.

        Raises ArtifactError, beginning with `where`, for a missing column or an impossible value.
        """
        for column in self.needed:
            if column not in record:
                raise ArtifactError(f"{where}: no column {column!r}: {nearest(column, [*record])}")
        label = None if self.label_column is None else _label(record, self.label_column, where)
        texts = [_text(record, column, where) for column in self.text_columns]
        if self.text_pair_column is None:
            yield from (Row(text, None, label) for text in texts if text is not None)
        elif texts[0] is not None:
            pair = _text(record, self.text_pair_column, where)
            if pair is not None:
                yield Row(texts[0], pair, label)


class Files(Columns):
    """Local files, folders and globs."""

    kind: Literal["files"]
    files: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Files, folders (all that can be read in them, at any depth) and globs (`**`: any depth)."""

    def rows(self, root: Path) -> Iterator[Row]:
        """Rows of all files, folders and globs in sorted order, each file once.

        Raises UsageError for a file of no known format, and ArtifactError naming file and line for
        what is missing, empty, damaged, not UTF-8 or of the wrong type.
        """
        readers: dict[Path, Reader] = {}
        for path in (path for name in self.files for path in _expand(root, name)):
            if not path.is_file():
                raise ArtifactError(f"{path} does not exist: check 'files' in the pipeline file")
            readers[path] = _reader_of(path)
        for path, reader in readers.items():
            yield from self._rows(path, reader)

    def paths(self, root: Path) -> list[str]:
        """What this source reads, relative to `root`: files, folders, and the matches of globs.

        Raises ArtifactError for a glob that matches nothing.
        """
        found: list[Path] = []
        for name in self.files:
            found += _expand(root, name) if _is_glob(root, name) else [root / name]
        return sorted({Path(os.path.relpath(path, root)).as_posix() for path in found})

    def _rows(self, path: Path, reader: Reader) -> Iterator[Row]:
        columns = Columns() if reader is _read_txt else self
        found = False
        with _damage_named(path):
            for where, record in reader(path, columns) if path.stat().st_size else ():
                for row in columns.convert(record, where):
                    found = True
                    yield row
        if not found:
            remedy = "mend it, or take it out of 'files'"
            raise ArtifactError(f"{path} is empty: no row has text; {remedy}")


def _is_glob(root: Path, name: str) -> bool:
    return glob.has_magic(name) and not (root / name).exists()


def _expand(root: Path, name: str) -> list[Path]:
    """The files that one entry of `files` means."""
    path = root / name
    if path.is_dir():
        found = [file for file in _glob(path, "**") if _suffix(file) in _READERS]
        if not found:
            allowed = ", ".join(_READERS)
            raise ArtifactError(f"{path} is a folder without a file to read: allowed: {allowed}")
        return found
    if not _is_glob(root, name):
        return [path]
    found = _glob(root, name)
    if not found:
        raise ArtifactError(f"no file matches {path}: check 'files' in the pipeline file")
    return found


def _glob(root: Path, pattern: str) -> list[Path]:
    # Dangling links stay: a file that is gone must be an error, not a smaller corpus.
    names = glob.glob(pattern, root_dir=root, recursive=True)
    return sorted((root / x for x in names if not (root / x).is_dir()), key=Path.as_posix)


def _suffix(path: Path) -> str:
    last = path.suffix.lower()
    return path.with_suffix("").suffix.lower() + last if last in _CODECS else last


def _reader_of(path: Path) -> Reader:
    suffix = _suffix(path)
    if suffix not in _READERS:
        raise UsageError(f"{path}: unknown format {suffix!r}: {nearest(suffix, [*_READERS])}")
    return _READERS[suffix]


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
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


def _text(record: Mapping[str, Any], column: str, where: str) -> str | None:
    value = record[column]
    if value is None:
        return None
    if not isinstance(value, str):
        raise ArtifactError(
            f"{where}: column {column!r} is {type(value).__name__}, not text: choose another"
        )
    size = _size(value, column, where)
    if size > MAX_TEXT:
        raise ArtifactError(
            f"{where}: {size} bytes in column {column!r}, a text has at most {MAX_TEXT}: cut it up"
        )
    return value if value.strip() else None


def _label(record: Mapping[str, Any], column: str, where: str) -> Label | None:
    value = record[column]
    if isinstance(value, str) and _size(value, column, where):
        return value
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ArtifactError(
        f"{where}: label {str(value)[:40]} in column {column!r} is neither text nor a finite number"
        " of 64 bits: mend it, or choose another label_column"
    )


def _size(text: str, column: str, where: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        half = "half of a surrogate pair, which is no text"
        raise ArtifactError(f"{where}: column {column!r} has {half}: mend it") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends (LF or CR LF), without a byte order mark."""
    with _open(path) as file:
        number = 0
        while raw := file.readline(_MAX_LINE + 1):
            number += 1
            if len(raw) > _MAX_LINE:
                limit = f"a line has at most {_MAX_LINE} bytes"
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


def _read_txt(path: Path, columns: Columns) -> Iterator[Record]:
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


Reader = Callable[[Path, Columns], Iterator[Record]]
_CODECS = {".gz": "gzip", ".zst": "zstd"}
_LINES: dict[str, Reader] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
_READERS: dict[str, Reader] = {
    **{kind + codec: read for kind, read in _LINES.items() for codec in ("", *_CODECS)},
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
