"""The tokenised corpus: Arrow file blocks whose borders are chosen by the text itself.

Legend: R rows, N tokens. A row's digest decides whether a block may end after it, so inserting or
removing rows anywhere changes what the blocks around them hold, and no others.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdpipe import artifact, io
from kdpipe.config import Frozen
from kdpipe.errors import ArtifactError
from kdpipe.masking import UNMASKED
from kdpipe.nets.features import spelling_array
from kdpipe.parts import MASKED_LOGITS, Part
from kdpipe.tokenizer import Encoded, spelled

KIND = "kdpipe.corpus"
REMEDY = "run 'kdpipe tokenize'"


class BlockFacts(Frozen):
    """What the manifest tells of a block."""

    name: str
    """File name, `block-<digest>.arrow`."""
    first_row: int
    rows: int
    tokens: int
    masked: int = 0
    """Tokens that are hidden from models."""
    tokens_digest: str
    """sha256 of the token ids and lengths: what a teacher's answer depends on."""


class CorpusFacts(Frozen):
    """What the manifest tells of a corpus."""

    rows: int
    held_out: int
    """Rows that no student trains on."""
    tokens: int
    masked: int = 0
    """Tokens that are hidden from models."""
    longest: int
    """Tokens of the longest row."""
    cut_rows: int
    """Rows that were longer than `max_seq_length`, or just as long."""
    duplicates: int
    """Rows left out because their text had come before, with whatever label."""
    tokenizer: str
    """Fingerprint of the effective tokenizer."""
    vocabulary: int
    by_words: bool = False
    """Whether its tokens are whole words, so that models may read how these are written."""
    max_seq_length: int
    prompt: str
    prompt_tokens: int
    labels: tuple[str, ...] = ()
    """The different labels, those of all words and texts, in the order of numbers where all are
    integers, else of text; empty where labels are fractions or spans, or there are none."""
    blocks: tuple[BlockFacts, ...]


@dataclass(frozen=True)
class Block:
    """The rows of one file, as views into it."""

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


@dataclass(frozen=True, eq=False)
class Corpus:
    """A finished corpus, read block by block; every block is checked before its first use."""

    folder: Path
    manifest: artifact.Manifest
    digest: str
    facts: CorpusFacts

    @functools.cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """[R]: tokens of each row."""
        blocks = [np.diff(self.block(index).starts) for index in range(len(self.facts.blocks))]
        return np.concatenate(blocks).astype(np.int32)

    @functools.cached_property
    def masked(self) -> npt.NDArray[np.int64]:
        """[R]: masked tokens of each row."""
        blocks = [self.block(index) for index in range(len(self.facts.blocks))]
        return np.concatenate([np.diff(block.starts_of(MASKED_LOGITS)) for block in blocks])

    @functools.cached_property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """[R]: which rows no student trains on."""
        return np.concatenate(
            [self.block(index).held_out for index in range(len(self.facts.blocks))]
        )

    @functools.cached_property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """[R]: which rows have a label."""
        found = []
        for index in range(len(self.facts.blocks)):
            block = self.block(index)
            if block.labels is None:
                found.append(np.zeros(len(block.held_out), np.bool_))
            else:
                found.append(block.labels.is_valid().to_numpy(zero_copy_only=False))
        return np.concatenate(found)

    @functools.cached_property
    def text_digests(self) -> npt.NDArray[np.void]:
        """[R]: the digest of each row's text, as one value that sorts."""
        blocks = [self.block(index).text_digest for index in range(len(self.facts.blocks))]
        return np.ascontiguousarray(np.concatenate(blocks)).view("V16").ravel()

    @functools.cached_property
    def token_digests(self) -> npt.NDArray[np.void]:
        """[R]: a digest of what a model reads of each row and what is masked of it, for sorting."""
        found = [digest for index in range(len(self.facts.blocks)) for digest in self._rows(index)]
        return np.frombuffer(b"".join(found), "V16")

    def _rows(self, index: int) -> Iterator[bytes]:
        rows, starts = self.all_of(index), self.block(index).starts
        seconds = rows.lengths if rows.second_at is None else rows.second_at
        for begin, end, second in zip(starts[:-1], starts[1:], seconds, strict=True):
            digest = hashlib.blake2b(rows.ids[begin:end].tobytes(), digest_size=16)
            digest.update(int(second).to_bytes(8, "little"))
            for more in (rows.original, rows.spelling):
                if more is not None:
                    digest.update(more[begin:end].tobytes())
            yield digest.digest()

    @functools.cached_property
    def first_rows(self) -> list[int]:
        """First row of each block."""
        return [block.first_row for block in self.facts.blocks]

    def locate(self, row: int) -> tuple[int, int]:
        """(block, row within it)."""
        index = bisect.bisect_right(self.first_rows, row) - 1
        return index, row - self.first_rows[index]

    @functools.cache  # noqa: B019 - a corpus lives as long as its process
    def block(self, index: int) -> Block:
        """One block; raises ArtifactError where its bytes are not what the manifest says."""
        path = artifact.check(self.folder, self.manifest.files[index], f"{REMEDY} again")
        return views(read_table(path))

    def gather(self, rows: npt.NDArray[np.int64]) -> Encoded:
        """Rows in any order, copied together."""
        ids, words, original, spelling = (list[npt.NDArray[Any]]() for _ in range(4))
        lengths, second_at = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        pairs = False
        for index, (block, place) in enumerate(self._places(rows)):
            start, end = block.starts[place], block.starts[place + 1]
            ids.append(block.ids[start:end])
            if block.word_of is not None:
                words.append(block.word_of[start:end])
            if block.original is not None:
                original.append(block.original[start:end])
            if self.facts.by_words:
                spelling.append(block.spelling[start:end])
            lengths[index] = end - start
            pairs = pairs or block.second_at is not None
            second_at[index] = lengths[index] if block.second_at is None else block.second_at[place]
        return Encoded(
            _joined(ids),
            lengths,
            second_at if pairs else None,
            _joined(words) if words else None,
            _joined(original) if original else None,
            np.concatenate(spelling) if spelling else None,
        )

    def all_of(self, index: int) -> Encoded:
        """All rows of one block, in their order."""
        return self.block(index).encoded(by_words=self.facts.by_words)

    def labels(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        """The label of each row: None, int, float, str, or list of str.

        Of a question's window: first and last token of its answer, [0, 0] where that is not in it.
        """
        return [
            None if block.labels is None else block.labels[place].as_py()
            for block, place in self._places(rows)
        ]

    def words(self, rows: npt.NDArray[np.int64]) -> list[list[str]]:
        """The words of each row; raises ArtifactError where rows are not given as words."""
        found = []
        for block, place in self._places(rows):
            if block.words is None:
                raise ArtifactError(
                    f"{self.folder} has no words: read a source of kind conll, a column that holds"
                    " lists of words, or set split_words: true"
                )
            found.append(block.words[place].as_py())
        return found

    def _places(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[Block, int]]:
        for row in rows.tolist():
            number, place = self.locate(row)
            yield self.block(number), place


def open_corpus(folder: Path, remedy: str = REMEDY) -> Corpus:
    """A finished corpus; raises ArtifactError where there is none."""
    manifest, digest = artifact.open_finished(folder, KIND, remedy)
    try:
        facts = CorpusFacts.model_validate(manifest.facts)
    except ValueError as error:
        raise ArtifactError(f"{folder}: {str(error).splitlines()[0]}: {remedy}") from None
    if [file.name for file in manifest.files] != [block.name for block in facts.blocks]:
        raise ArtifactError(f"{folder}: files and blocks of the manifest differ: {remedy}")
    return Corpus(folder, manifest, digest, facts)


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


def text_digest(whole: str) -> bytes:
    """blake2b-128 of a text, or of a pair as one: what tells rows apart, whatever reads them."""
    return hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def tokens_digest(
    ids: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    second_at: Any,
    original: Any,
    spelling: Any = None,
) -> str:
    """sha256 over what a model reads of a block and which of it is masked, as hex."""
    arrays = [ids, lengths] if second_at is None else [ids, lengths, second_at]
    if original is not None:
        arrays = [ids, lengths, [] if second_at is None else second_at, original]
    if spelling is not None:
        rest = ([] if array is None else array for array in (second_at, original))
        arrays = [ids, lengths, *rest, spelling.reshape(-1)]
    return io.digest_arrays([np.ascontiguousarray(array, "<i8") for array in arrays])


def read_table(path: Path) -> pa.Table:
    """The mapped columns of a block; raises ArtifactError where it is none."""
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ArtifactError(f"{path} is not a corpus block ({error}): {REMEDY} again") from None
    return table


def views(table: pa.Table) -> Block:
    """The rows of a block whose columns are those of `schema`."""
    # A block is one record batch: its only chunk is a view of the mapped file.
    columns = {name: table.column(name).chunk(0) for name in table.column_names}
    ids = columns["input_ids"]
    digests = np.frombuffer(columns["text_digest"].buffers()[1], np.uint8)
    second_at = columns["second_at"].to_numpy() if "second_at" in columns else None
    return Block(
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


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    return np.concatenate(parts or [np.empty(0, np.int64)]).astype(np.int64)
