"""Vectors of the user's own in a file, and which of them belongs to which row of a corpus.

Legend: R rows of the corpus, F rows of the file, V vectors of the file, D numbers in each. Arrays
are mapped and never read as a whole. Tables are unpacked into a scratch file, since their rows may
have any order.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kdpipe import io
from kdpipe.corpus import Corpus, text_digest
from kdpipe.errors import ArtifactError
from kdpipe.progress import counted
from kdpipe.sources.columns import Columns
from kdpipe.sources.formats import damage_named, first_line, read_batches, records
from kdpipe.targets.imported import TABLES, Imported
from kdpipe.token_vectors import check_counts, flattened, is_list, starts_of

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]
Batch = Mapping[str, pa.Array]

_NUMBERS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_NUMBERS |= {torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64}
_CHUNK, _RAGGED_CHUNK = 1024, 32
"""Rows of a table that are in memory at a time: with one vector each, and with several."""
_SHOWN = 5


@dataclass(frozen=True)
class Vectors:
    """What a file has for each row of a corpus."""

    values: Tensor
    """[V, D], mapped."""
    place: Integers | None
    """[R]: which row of the file is about a row; None: both have the same order."""
    starts: Integers | None = None
    """[F + 1]: where each row of the file begins in `values`; None: each has one vector."""

    def of(self, first: int, rows: int) -> Tensor:
        """[rows, D] fp32, or of several vectors a row [V, D]: those of the rows from `first` on."""
        place = self._place[first : first + rows]
        if self.starts is not None:
            counts = self.counts[first : first + rows]
            skipped = self.starts[place] - (np.cumsum(counts) - counts)
            place = np.arange(counts.sum()) + np.repeat(skipped, counts)
        return self.values[torch.from_numpy(place)].float()

    @functools.cached_property
    def counts(self) -> Integers:
        """[R]: vectors of each row."""
        if self.starts is None:
            return np.ones(len(self._place), np.int64)
        counts: Integers = np.diff(self.starts)[self._place]
        return counts

    @functools.cached_property
    def _place(self) -> Integers:
        rows = len(self.values) if self.starts is None else len(self.starts) - 1
        return np.arange(rows) if self.place is None else self.place


def open_vectors(file: Imported, root: Path, corpus: Corpus, scratch: Path) -> Vectors:
    """The vectors of each row of `corpus`; a table is unpacked in the folder `scratch`.

    Raises:
        ArtifactError: not there, damaged, no vectors, or not one for each row of the corpus, or
            for each of its tokens or words.
    """
    path = file.path(root)
    if file.suffix not in TABLES:
        return _array(file, path, corpus)
    io.make_folder(scratch)
    with tempfile.TemporaryFile(dir=scratch) as unpacked:
        table = _unpack(file, path, corpus, unpacked)
        unpacked.flush()
        # The space is free again as soon as nothing maps it.
        shape = (table.vectors, table.width)
        mapped = np.memmap(unpacked, np.float32, "c", shape=shape)
    return Vectors(torch.from_numpy(mapped), table.place, table.starts)


def width_of(file: Imported, root: Path, corpus: Corpus) -> int:
    """D, without writing anything; raises as `open_vectors` does."""
    path = file.path(root)
    if file.suffix in TABLES:
        return _unpack(file, path, corpus, None).width
    return _array(file, path, corpus).values.shape[1]


def _array(file: Imported, path: Path, corpus: Corpus) -> Vectors:
    """Vectors in a `.npy` or `.safetensors` file."""
    several = file.about != "row"
    rows = lengths = starts = None
    try:
        if file.suffix == ".npy":
            values = _npy(path)
        else:
            values, rows, lengths = _tensors(path, lengths=several)
    except (ValueError, TypeError, EOFError, SafetensorError) as error:
        reason = first_line(error)
        raise ArtifactError(f"{path} cannot be read ({reason}): write it again") from None
    if values.dtype not in _NUMBERS or values.ndim not in {1, 2} or 0 in values.shape:
        kind = str(values.dtype).removeprefix("torch.")
        raise ArtifactError(
            f"{path} is {kind} of the shape {[*values.shape]}, not a vector of numbers for each"
            " row: write it as [rows, width]"
        )
    values = values.reshape(len(values), -1)
    if lengths is not None:
        starts = starts_of(path, lengths, len(values))
    place = None
    there = len(values) if starts is None else len(starts) - 1
    if rows is None:
        _refuse_other_count(path, there, corpus, several=several)
    else:
        place = _numbered(path, rows, there, corpus, several=several)
    vectors = Vectors(values, place, starts)
    if several:
        check_counts(path, vectors.counts, corpus, file.about)
    return vectors


def _numbered(path: Path, rows: Array, there: int, corpus: Corpus, *, several: bool) -> Integers:
    """[R]: which row of the file is about a row of the corpus, told by its tensor `rows`."""
    if rows.dtype.kind != "i" or rows.shape != (there,):
        raise ArtifactError(
            f"{path} has {_things(there, several=several)}, but 'rows' is {rows.dtype} of the shape"
            f" {[*rows.shape]}: give each the number of its row, as int64"
        )
    where, place = f"{path}: tensor 'rows'", np.full(corpus.facts.rows, -1)
    numbers = rows.astype(np.int64)
    _refuse_outside(where, numbers, corpus)
    _refuse_repeated(where, numbers, _put(place, numbers, 0))
    _refuse_missing(path, place, corpus)
    return place


def _npy(path: Path) -> Tensor:
    # Not numpy.load, which also opens archives and, if it may, pickles.
    return torch.from_numpy(np.lib.format.open_memmap(path, mode="c"))


def _tensors(path: Path, *, lengths: bool) -> tuple[Tensor, Array | None, Array | None]:
    """`values`, `rows` where there are any, and `lengths` where they are asked for."""
    with safe_open(path, framework="pt") as tensors:
        names = [*tensors.keys()]
        if "values" not in names:
            raise ArtifactError(
                f"{path} has no tensor 'values', but {', '.join(names)}: rename the right one"
            )
        if lengths and "lengths" not in names:
            raise ArtifactError(
                f"{path} has no tensor 'lengths': write how many of the vectors each row has, as"
                " int64"
            )
        rows = tensors.get_tensor("rows").numpy() if "rows" in names else None
        counts = tensors.get_tensor("lengths").numpy() if lengths else None
        return tensors.get_tensor("values"), rows, counts


@dataclass(frozen=True)
class _Table:
    """What a table turned out to be."""

    width: int
    vectors: int
    """V: those that rows of the corpus have."""
    place: Integers
    """[R]: as `Vectors` has it."""
    starts: Integers | None
    """[F + 1]: as `Vectors` has it."""


def _unpack(file: Imported, path: Path, corpus: Corpus, unpacked: IO[bytes] | None) -> _Table:
    """What a table has; its vectors, those of the corpus, are written to `unpacked` as fp32."""
    key_of_row = np.arange(corpus.facts.rows)
    find = functools.partial(_by_number, file, path, corpus)
    if file.text_column is not None:
        texts, key_of_row = _texts(file, path, corpus)
        find = functools.partial(_by_text, file, path, corpus, texts)
    place = np.full(int(key_of_row.max()) + 1, -1)
    lengths = [np.empty(0, np.int64)]
    read = written = width = 0
    with damage_named(path):
        for batch in _chunks(path, file):
            column = batch[file.value_column]
            there = column.is_valid().to_numpy(zero_copy_only=False)
            what, rows = f"{path}: column {file.value_column!r}", read + 1 + np.flatnonzero(there)
            column, counts = column.drop_null(), np.ones(len(rows), np.int64)
            if file.about != "row":
                column, counts = flattened(column, what, rows)
            vectors = _vectors(column, what, np.repeat(rows, counts), width)
            width = vectors.shape[1]
            keys = np.where(there, find(batch, read), -1)
            kept = _put(place, keys, written)
            if file.text_column is None:
                _refuse_repeated(f"{path}: column {file.id_column!r}", keys, kept)
            if unpacked is not None:
                unpacked.write(vectors[np.repeat(kept[there], counts)].tobytes())
            lengths.append(counts[kept[there]])
            read, written = read + len(keys), written + int(kept.sum())
    several = file.about != "row"
    if file.id_column is None and file.text_column is None:
        _refuse_other_count(path, read, corpus, several=several)
    place = place[key_of_row]
    _refuse_missing(path, place, corpus)
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    if several:
        check_counts(path, np.diff(starts)[place], corpus, file.about)
    return _Table(width, int(starts[-1]), place, starts if several else None)


def _texts(file: Imported, path: Path, corpus: Corpus) -> tuple[Array, Integers]:
    """The different texts of the corpus, and [R] which of them each row has."""
    texts, of_row = np.unique(corpus.text_digests, return_inverse=True)
    if file.about != "row" and len(texts) < len(of_row):
        raise ArtifactError(
            f"{path}: {corpus.folder} has a text in several rows (deduplicate: false, or windows of"
            f" a context), which may differ in {file.about}s: find rows by id_column"
        )
    return texts, of_row


def _chunks(path: Path, file: Imported) -> Iterator[Batch]:
    """The columns that matter, some rows at a time, also where a batch has more."""
    keys = (file.id_column, file.text_column, file.text_pair_column)
    needed = dict.fromkeys([*(key for key in keys if key is not None), file.value_column])
    rows = _CHUNK if file.about == "row" else _RAGGED_CHUNK
    for batch in read_batches(path, [*needed], rows=rows):
        for first in range(0, len(batch[file.value_column]), rows):
            yield {name: column.slice(first, rows) for name, column in batch.items()}


def _vectors(column: pa.Array, what: str, rows: Integers, width: int) -> Array:
    """[V, D] fp32 of vectors in rows of these numbers; `width` is that of those before, or 0."""
    lists = is_list(column.type)
    numbers = column.flatten() if lists else column
    if not (pa.types.is_floating(numbers.type) or pa.types.is_integer(numbers.type)):
        raise ArtifactError(
            f"{what} is {column.type}, not lists of numbers: choose another value_column"
        )
    lengths = np.ones(len(rows), np.int64)
    if lists:
        lengths = pa.compute.list_value_length(column).to_numpy(zero_copy_only=False)
    wanted = width or (int(lengths[0]) if len(lengths) else 0)
    wrong = np.flatnonzero((lengths != wanted) | (lengths == 0))
    if len(wrong):
        row, found = int(rows[wrong[0]]), int(lengths[wrong[0]])
        rest = f", those before it have {wanted}" if found else ""
        has = f"{counted(found, 'number')}{rest}"
        raise ArtifactError(f"{what}: row {row} has {has}: mend the file")
    with np.errstate(over="ignore"):
        values = numbers.to_numpy(zero_copy_only=False).astype(np.float32)
    return np.asarray(values.reshape(len(rows), wanted))


def _by_number(file: Imported, path: Path, corpus: Corpus, batch: Batch, read: int) -> Integers:
    """[rows of the batch]: the row of the corpus that each is about, -1 behind the last."""
    if file.id_column is None:
        numbers = np.arange(read, read + len(batch[file.value_column]))
        return np.where(numbers < corpus.facts.rows, numbers, -1)
    column, where = batch[file.id_column], f"{path}: column {file.id_column!r}"
    if not pa.types.is_integer(column.type) or column.null_count:
        kind = "a null" if column.null_count else str(column.type)
        raise ArtifactError(f"{where} has {kind} where each value is the number of a row: mend it")
    found = np.array(column.to_numpy(), np.int64)
    _refuse_outside(where, found, corpus)
    return found


def _by_text(
    file: Imported, path: Path, corpus: Corpus, texts: Array, batch: Batch, read: int
) -> Integers:
    """[rows of the batch]: which of the different texts of the corpus each has, -1 for none."""
    block = corpus.block(0)
    assert file.text_column is not None
    columns = Columns(
        text_column=file.text_column,
        text_pair_column=file.text_pair_column,
        split_words=block.words is not None,
    )
    if (block.second_at is not None) != (file.text_pair_column is not None):
        pairs, remedy = ("pairs", "give") if block.second_at is not None else ("texts", "take out")
        raise ArtifactError(f"{path}: {corpus.folder} has {pairs}: {remedy} text_pair_column")
    digests, numbers = [], []
    read_as = {name: batch[name] for name in columns.needed}
    for number, (where, record) in enumerate(records(read_as, path, read)):
        for row in columns.convert(record, where):
            digests.append(text_digest(row.whole))
            numbers.append(number)
    found = np.frombuffer(b"".join(digests), "V16")
    places = np.searchsorted(texts, found).clip(max=len(texts) - 1)
    keys = np.full(len(batch[file.value_column]), -1)
    keys[numbers] = np.where(texts[places] == found, places, -1)
    return keys


def _put(place: Integers, keys: Integers, first: int) -> npt.NDArray[np.bool_]:
    """Number the vectors from `first` on whose keys have none yet; which ones these are."""
    kept = np.zeros(len(keys), np.bool_)
    asked = np.flatnonzero(keys >= 0)
    _, firsts = np.unique(keys[asked], return_index=True)
    fresh = asked[firsts]
    kept[fresh[place[keys[fresh]] < 0]] = True
    place[keys[kept]] = first + np.arange(int(kept.sum()))
    return kept


def _refuse_outside(where: str, numbers: Integers, corpus: Corpus) -> None:
    outside = numbers[(numbers < 0) | (numbers >= corpus.facts.rows)]
    if len(outside):
        raise ArtifactError(
            f"{where} names row {outside[0]}, {corpus.folder} has rows 0 to"
            f" {corpus.facts.rows - 1}: number the rows as the corpus does, or use text_column"
        )


def _refuse_repeated(where: str, numbers: Integers, kept: npt.NDArray[np.bool_]) -> None:
    repeated = numbers[(numbers >= 0) & ~kept]
    if len(repeated):
        raise ArtifactError(f"{where} names row {repeated[0]} twice: keep one vector for each row")


def _things(number: int, *, several: bool) -> str:
    if several:
        return counted(number, "list of vectors", "lists of vectors")
    return counted(number, "vector")


def _refuse_other_count(path: Path, found: int, corpus: Corpus, *, several: bool) -> None:
    facts = corpus.facts
    if found != facts.rows:
        raise ArtifactError(
            f"{path} has {_things(found, several=several)}, {corpus.folder} has"
            f" {counted(facts.rows, 'row')} (blank texts and"
            f" {counted(facts.duplicates, 'repeated one')} were left out): set deduplicate: false"
            " for it, or find rows by id_column or text_column of a table"
        )


def _refuse_missing(path: Path, place: Integers, corpus: Corpus) -> None:
    missing = np.flatnonzero(place < 0)
    if len(missing):
        shown = ", ".join(str(row) for row in missing[:_SHOWN])
        more = ", ..." if len(missing) > _SHOWN else ""
        raise ArtifactError(
            f"{path} has nothing for {len(missing):,} of {counted(len(place), 'row')} of"
            f" {corpus.folder} (row {shown}{more}): give every row a vector; texts must be just as"
            " in the sources"
        )
