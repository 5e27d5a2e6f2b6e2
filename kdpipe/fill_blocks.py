"""Rows as they are tokenised into blocks, whose borders the text itself chooses.

Legend: R rows of one chunk, N tokens of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdpipe import blocks, corpus, io
from kdpipe.corpus import BlockFacts, CorpusFacts
from kdpipe.corpus_rows import Chosen
from kdpipe.known_tokenizers import KnownTokenizer
from kdpipe.masking import UNMASKED, Masking
from kdpipe.pipeline import CorpusSpec
from kdpipe.read_rows import Read, as_words, read_rows
from kdpipe.row_kinds import Kinds
from kdpipe.sources import Row
from kdpipe.tokenizer import Encoded, Tokenizer, joined

SMALLEST = 4_096
"""Tokens before a block may end: few beside SPREAD, so that borders fall on the same rows again
soon after rows were inserted."""
SPREAD = 28_672
"""Tokens that then follow on average until it does."""
LARGEST = 131_072
"""Tokens after which it ends anyway."""

Keep = Callable[[str, bytes], None]
"""Takes a block's name and bytes."""


@dataclass(frozen=True)
class Reading:
    """How text becomes token ids."""

    known: KnownTokenizer
    max_seq_length: int
    prompt: str

    @property
    def tokenizer(self) -> Tokenizer:
        """What reads it."""
        return self.known.loaded


class Begun(NamedTuple):
    """Rows that are being read."""

    chosen: list[Chosen]
    rows: list[Row]
    label: pa.DataType | None
    """That labels had up to here; None before the first one."""
    read: Future[Read]


class _Piece(NamedTuple):
    """Rows of a block, one after the other."""

    encoded: Encoded
    chosen: list[Chosen]
    words: list[tuple[str, ...] | None]
    labels: Sequence[Any]


class Blocks:
    """Takes rows chunk by chunk, and gives blocks to `keep`."""

    def __init__(self, spec: CorpusSpec, reading: Reading, keep: Keep) -> None:
        self._reading, self._keep = reading, keep
        self._pieces, self._tokens = list[_Piece](), 0
        self._blocks, self._kinds = list[BlockFacts](), Kinds()
        self._label: pa.DataType | None = None
        self._totals = dict.fromkeys(
            ("rows", "held_out", "tokens", "masked", "longest", "cut_rows"), 0
        )
        self._masking = None
        if spec.mlm_probability is not None:
            prompt_tokens = reading.tokenizer.count(reading.prompt)
            self._masking = Masking(
                spec.mlm_probability, spec.seed, reading.tokenizer, prompt_tokens
            )

    def begin(self, chunk: list[Chosen], pool: Executor) -> Begun:
        """Let rows be read by another thread; raises as `Kinds.add`."""
        reading = self._reading
        rows = as_words(reading.tokenizer, [chosen.row for chosen in chunk])
        self._kinds.add(rows)
        read = pool.submit(
            read_rows, reading.tokenizer, rows, reading.max_seq_length, reading.prompt
        )
        return Begun(chunk, rows, self._kinds.label, read)

    def add(self, begun: Begun) -> None:
        """Put rows into blocks, in the order in which they were begun; raises as `read_rows`."""
        read, self._label = begun.read.result(), begun.label
        chosen, encoded = [begun.chosen[index] for index in read.row_of], read.encoded
        if self._masking is not None:
            encoded = self._masking.of(encoded, [one.digest for one in chosen])
        words = [begun.rows[index].words for index in read.row_of]
        lengths = encoded.lengths
        self._totals["cut_rows"] += read.cut
        self._totals["longest"] = max(self._totals["longest"], int(lengths.max()))
        may_end, first = _may_end(chosen, lengths), 0
        while first < len(chosen):
            tokens = self._tokens + lengths[first:].cumsum()
            # The text decides once the block is large enough.
            ends = (tokens >= SMALLEST) & (may_end[first:] | (tokens >= LARGEST))
            last = first + int(ends.argmax()) + 1 if ends.any() else len(chosen)
            some = slice(first, last)
            part = encoded.part(first, last)
            self._pieces.append(_Piece(part, chosen[some], words[some], read.labels[some]))
            self._tokens += len(part.ids)
            if ends.any():
                self._flush()
            first = last

    def close(self, duplicates: int) -> CorpusFacts:
        """Write the last block; what the corpus turned out to be."""
        if self._pieces:
            self._flush()
        reading = self._reading
        return CorpusFacts(
            **self._totals,
            duplicates=duplicates,
            tokenizer=reading.tokenizer.fingerprint,
            vocabulary=reading.tokenizer.vocabulary,
            by_words=reading.tokenizer.by_words,
            max_seq_length=reading.max_seq_length,
            prompt=reading.prompt,
            prompt_tokens=reading.tokenizer.count(reading.prompt),
            labels=self._kinds.labels,
            blocks=tuple(self._blocks),
        )

    def _flush(self) -> None:
        pieces, self._pieces, self._tokens = self._pieces, [], 0
        rows = _Piece(
            joined([piece.encoded for piece in pieces]),
            [one for piece in pieces for one in piece.chosen],
            [one for piece in pieces for one in piece.words],
            [one for piece in pieces for one in piece.labels],
        )
        encoded = rows.encoded
        data = blocks.encode_block(self._table(rows))
        name = f"block-{io.digest_bytes(data).rpartition(':')[2][:16]}.arrow"
        self._keep(name, data)
        masked = 0 if encoded.original is None else int((encoded.original != UNMASKED).sum())
        digest = corpus.tokens_digest(
            encoded.ids, encoded.lengths, encoded.second_at, encoded.original, encoded.spelling
        )
        facts = BlockFacts(
            name=name,
            first_row=self._totals["rows"],
            rows=len(rows.chosen),
            tokens=len(encoded.ids),
            masked=masked,
            tokens_digest=digest,
        )
        self._blocks.append(facts)
        for what in ("rows", "tokens", "masked"):
            self._totals[what] += getattr(facts, what)
        self._totals["held_out"] += sum(one.held_out for one in rows.chosen)

    def _table(self, rows: _Piece) -> pa.Table:
        """The columns of a block."""
        encoded, first = rows.encoded, self._totals["rows"]
        schema = blocks.schema(
            self._reading.tokenizer.vocabulary,
            pairs=encoded.second_at is not None,
            words=encoded.word_of is not None,
            masked=encoded.original is not None,
            label=self._label,
        )
        columns = {
            "row": np.arange(first, first + len(rows.chosen)),
            "text_digest": [one.digest for one in rows.chosen],
            "held_out": [one.held_out for one in rows.chosen],
            "length": encoded.lengths,
            "input_ids": encoded.ids,
            "second_at": encoded.second_at,
            "words": rows.words,
            "word": encoded.word_of,
            "original": encoded.original,
            "label": rows.labels,
        }
        starts = np.concatenate([[0], encoded.lengths.cumsum()]).astype(np.int32)
        arrays = [
            _lists(starts, columns[column.name], column.type)
            if column.name in {"input_ids", "word", "original"}
            else pa.array(columns[column.name], column.type)
            for column in schema
        ]
        return pa.table(arrays, schema=schema)


def _lists(starts: npt.NDArray[np.int32], values: Any, kind: pa.ListType) -> pa.ListArray:
    return pa.ListArray.from_arrays(starts, pa.array(values, kind.value_type), type=kind)


def _may_end(chosen: list[Chosen], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """[R]: after which rows their text lets a block end, the longer they are the more often."""
    digests = np.frombuffer(b"".join(one.digest for one in chosen), "<u4")
    drawn: npt.NDArray[np.bool_] = digests.reshape(len(chosen), -1)[:, 0] / 2**32 < lengths / SPREAD
    return drawn
