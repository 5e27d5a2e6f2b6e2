"""What a file of a corpus holds: its columns, how they are written, and checked as they are read.

Legend: R rows, N tokens.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdpipe.errors import ArtifactError
from kdpipe.masking import UNMASKED
from kdpipe.nets.features import spelling_array
from kdpipe.parts import Part
from kdpipe.tokenizer import Encoded, spelled

Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Block:
    """The rows of one file, as views into it."""

    numbers: npt.NDArray[np.int64]
    """[R]: which rows of the corpus they are."""
    ids: npt.NDArray[np.integer[Any]]
    """[N] uint16 or int32."""
    starts: npt.NDArray[np.int32]
    """[R + 1]: where each row begins in `ids`."""
    second_at: npt.NDArray[np.int32] | None
    """[R]: where the second text of a pair begins; None without pairs."""
    held_out: npt.NDArray[np.bool_]
    """[R]."""
    text_digest: npt.NDArray[np.uint8]
    """[R, 16]."""
    labels: pa.Array | None
    """[R]; None in a block before the first label."""
    words: pa.ListArray | None
    """[R] lists of text; None where rows are not given as words."""
    word_of: npt.NDArray[np.int32] | None
    """[N]: place in the row's words, -1 for other tokens; None as for `words`."""
    original: npt.NDArray[np.int32] | None
    """[N]: the id that stood at a masked place, -100 at others; None where nothing is masked."""

    def starts_of(self, part: Part) -> npt.NDArray[np.integer[Any]]:
        """[R + 1]: where each row begins among the vectors of a part."""
        if not part.per_token:
            return np.arange(len(self.starts))
        return self._masked_starts if part.only_masked else self.starts

    def encoded(self, *, by_words: bool) -> Encoded:
        """All rows, in their order; with the spelling of words where these are the tokens."""
        second_at = None if self.second_at is None else self.second_at.astype(np.int64)
        word_of = None if self.word_of is None else self.word_of.astype(np.int64)
        original = None if self.original is None else self.original.astype(np.int64)
        lengths = np.diff(self.starts).astype(np.int64)
        spelling = self.spelling if by_words else None
        return Encoded(self.ids.astype(np.int64), lengths, second_at, word_of, original, spelling)

    @functools.cached_property
    def spelling(self) -> npt.NDArray[np.uint8]:
        """[N, 1 + C]: of the word of each token, as `Encoded` has it."""
        assert self.words is not None
        assert self.word_of is not None
        words = self.words.values.dictionary_encode()
        return spelled(
            spelling_array(words.dictionary.to_pylist()),
            words.indices.to_numpy(),
            self.words.offsets.to_numpy()[:-1],
            self.word_of,
            np.diff(self.starts),
        )

    @functools.cached_property
    def _masked_starts(self) -> npt.NDArray[np.int64]:
        masked = np.zeros(len(self.ids), np.bool_)
        if self.original is not None:
            masked = self.original != UNMASKED
        starts: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(masked)])[self.starts]
        return starts


def schema(
    vocabulary: int, *, pairs: bool, words: bool, masked: bool, label: pa.DataType | None
) -> pa.Schema:
    """The columns of a block; `docs/formats.md` describes them."""
    ids = pa.uint16() if vocabulary <= 1 << 16 else pa.int32()
    fields = [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("text_digest", pa.binary(16), nullable=False),
        pa.field("held_out", pa.bool_(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("input_ids", list_of(ids), nullable=False),
    ]
    if pairs:
        fields.append(pa.field("second_at", pa.int32(), nullable=False))
    if words:
        fields.append(pa.field("words", list_of(pa.string()), nullable=False))
        fields.append(pa.field("word", list_of(pa.int32()), nullable=False))
    if masked:
        fields.append(pa.field("original", list_of(pa.int32()), nullable=False))
    if label is not None:
        fields.append(pa.field("label", label))
    return pa.schema(fields)


def list_of(kind: pa.DataType) -> pa.DataType:
    """A list without nulls in it."""
    return pa.list_(pa.field("item", kind, nullable=False))


def encode_block(table: pa.Table) -> bytes:
    """The bytes of a block: an Arrow IPC file with one record batch, not compressed."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(len(table), 1))
    return bytes(sink.getvalue())


_LABELS = (pa.int64(), pa.float64(), pa.string(), list_of(pa.string()), list_of(pa.int32()))


def read_block(path: Path, vocabulary: int) -> Block:
    """Views into a file, mapped; nothing in it leads a reader outside of what is there.

    Raises:
        ArtifactError: it is no Arrow file.
        ValueError: other columns or values than a block has.
    """
    table = read_table(path)
    _check_columns(table, vocabulary)
    block = views(table)
    _check_values(block, table, vocabulary)
    return block


def read_table(path: Path) -> pa.Table:
    """The mapped columns of a file, whatever they are; raises ArtifactError where it has none."""
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(
            f"{path} is not a corpus block ({reason}): run 'kdpipe tokenize' again"
        ) from None
    return table


def _check_columns(table: pa.Table, vocabulary: int) -> None:
    names = set(table.column_names)
    label = table.schema.field("label").type if "label" in names else None
    expected = schema(
        vocabulary,
        pairs="second_at" in names,
        words="words" in names,
        masked="original" in names,
        label=label,
    )
    if table.schema != expected or (label is not None and label not in _LABELS):
        raise ValueError("other columns than a block has")
    if not table.num_rows or any(len(column.chunks) != 1 for column in table.columns):
        raise ValueError("no record batch, or several")
    for name in sorted(names - {"label"}):
        column = table.column(name).chunk(0)
        inner = column.values if pa.types.is_list(column.type) else column
        if column.null_count or inner.null_count:
            raise ValueError(f"nulls in column {name!r}")


def _check_values(block: Block, table: pa.Table, vocabulary: int) -> None:
    lengths = np.diff(block.starts)
    _within("first tokens", block.starts[:1], 0, 0)
    _within("last tokens", block.starts[-1:], len(block.ids), len(block.ids))
    _within("lengths", lengths, 1, len(block.ids))
    _within("lengths", table.column("length").to_numpy(), lengths, lengths)
    _within("token ids", block.ids, 0, vocabulary - 1)
    if block.second_at is not None:
        _within("second texts", block.second_at, 0, lengths)
    for values in (block.original, block.word_of):
        if values is not None and len(values) != len(block.ids):
            raise ValueError("other counts of tokens in its columns")
    if block.original is not None:
        _within("hidden ids", block.original, UNMASKED, vocabulary - 1)
    if block.word_of is not None and block.words is not None:
        words = np.diff(block.words.offsets.to_numpy())
        _within("words", block.word_of, -1, np.repeat(words, lengths) - 1)


def _within(what: str, values: Integers, least: int | Integers, most: int | Integers) -> None:
    if (values < least).any() or (values > most).any():
        raise ValueError(f"{what} beyond what there is")


def views(table: pa.Table) -> Block:
    """The rows of a table whose columns are those of `schema`."""
    # A block is one record batch: its only chunk is a view of the mapped file.
    columns = {name: table.column(name).chunk(0) for name in table.column_names}
    ids = columns["input_ids"]
    digests = np.frombuffer(columns["text_digest"].buffers()[1], np.uint8)
    second_at = columns["second_at"].to_numpy() if "second_at" in columns else None
    return Block(
        numbers=columns["row"].to_numpy(),
        ids=ids.values.to_numpy(),
        starts=ids.offsets.to_numpy(),
        second_at=second_at,
        held_out=columns["held_out"].to_numpy(zero_copy_only=False),
        text_digest=digests[: len(table) * 16].reshape(-1, 16),
        labels=columns.get("label"),
        words=columns.get("words"),
        word_of=columns["word"].values.to_numpy() if "word" in columns else None,
        original=columns["original"].values.to_numpy() if "original" in columns else None,
    )
