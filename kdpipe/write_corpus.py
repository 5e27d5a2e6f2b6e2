"""From text to a corpus: read, drop duplicates, tokenise, cut into blocks, hold some rows out."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdpipe import artifact, corpus, io
from kdpipe.corpus import BlockFacts, CorpusFacts
from kdpipe.errors import ArtifactError
from kdpipe.kinds import Kinds
from kdpipe.pipeline import CorpusSpec
from kdpipe.progress import Progress
from kdpipe.reading import read_rows
from kdpipe.sources import Row
from kdpipe.tokenizer import Tokenizer

SMALLEST = 4_096
"""Tokens before a block may end: few beside SPREAD, so that borders fall on the same rows again
soon after rows were inserted."""
SPREAD = 28_672
"""Tokens that then follow on average until it does."""
LARGEST = 131_072
"""Tokens after which it ends anyway."""
_CHUNK = 4096
"""Rows that are tokenised together."""


@dataclass(frozen=True)
class Reading:
    """How text becomes token ids."""

    tokenizer: Tokenizer
    max_seq_length: int
    prompt: str


def source_digests(spec: CorpusSpec, root: Path) -> dict[str, str]:
    """What the text depends on beside the spec, by source."""
    return {f"source.{i}": source.state(root) for i, source in enumerate(spec.sources)}


def write_corpus(
    spec: CorpusSpec, folder: Path, reading: Reading, root: Path, inputs: dict[str, str]
) -> CorpusFacts:
    """Make the corpus that `spec` asks for in `folder`; files of an older one are removed.

    Raises:
        ArtifactError: no rows, rows that all are held out, rows of several kinds, labels of several
            types or too many of them.
    """
    writer = _Writer(spec, folder, reading)
    rows = itertools.islice(_distinct(spec, root, writer), spec.max_rows)
    with Progress("tokenize", total=spec.max_rows, unit="rows") as bar:
        while chunk := list(itertools.islice(rows, _CHUNK)):
            writer.add(chunk)
            bar.advance(len(chunk))
    facts = writer.close()
    if facts.rows == 0:
        raise ArtifactError("the sources have no text: check their files and columns")
    if facts.held_out == facts.rows:
        raise ArtifactError(f"all {facts.rows} rows are held out: lower 'validation' or add text")
    names = [block.name for block in facts.blocks]
    parts = tuple(artifact.part(folder, name) for name in names)
    io.prune(folder, {*names, artifact.MANIFEST})
    artifact.finish(
        folder,
        artifact.Manifest(
            format=corpus.KIND,
            version=artifact.VERSIONS[corpus.KIND],
            spec=spec.identity(),
            inputs=inputs,
            facts=facts.identity(),
            files=parts,
        ),
    )
    return facts


def _distinct(spec: CorpusSpec, root: Path, writer: _Writer) -> Iterator[tuple[bytes, Row]]:
    """Rows with their digests, without duplicates where the corpus wants none."""
    seen: set[bytes] = set()
    for source in spec.sources:
        for row in source.rows(root):
            digest = corpus.text_digest(row.text, row.text_pair)
            if spec.deduplicate:
                if digest in seen:
                    writer.duplicates += 1
                    continue
                seen.add(digest)
            yield digest, row


@dataclass
class _Rows:
    """The rows of the block that is being filled."""

    ids: list[npt.NDArray[np.int64]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    second_at: list[int] = field(default_factory=list)
    word_of: list[npt.NDArray[np.int64]] = field(default_factory=list)
    words: list[tuple[str, ...] | None] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    held_out: list[bool] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    tokens: int = 0


class _Writer:
    """Fills and writes blocks."""

    def __init__(self, spec: CorpusSpec, folder: Path, reading: Reading) -> None:
        self.duplicates = 0
        self._folder, self._reading = folder, reading
        self._salt = spec.seed.to_bytes(8, "little", signed=True)
        self._held_below = int(spec.validation * 2**64)
        self._rows, self._blocks, self._kinds = _Rows(), list[BlockFacts](), Kinds()
        self._totals = {"rows": 0, "held_out": 0, "tokens": 0, "longest": 0, "cut_rows": 0}
        io.make_folder(folder)

    def add(self, chunk: list[tuple[bytes, Row]]) -> None:
        """Tokenise rows and put them into blocks."""
        rows = [row for _, row in chunk]
        self._kinds.add(rows)
        reading = self._reading
        read = read_rows(reading.tokenizer, rows, reading.max_seq_length, reading.prompt)
        encoded = read.encoded
        borders = np.cumsum(encoded.lengths)[:-1]
        word_of = None if encoded.word_of is None else np.split(encoded.word_of, borders)
        lengths = encoded.lengths.tolist()
        self._totals["cut_rows"] += read.cut
        self._totals["longest"] = max(self._totals["longest"], *lengths)
        for index, ids in enumerate(np.split(encoded.ids, borders)):
            digest, row = chunk[read.row_of[index]]
            block = self._rows
            block.ids.append(ids)
            block.lengths.append(lengths[index])
            if encoded.second_at is not None:
                block.second_at.append(int(encoded.second_at[index]))
            if word_of is not None:
                block.word_of.append(word_of[index])
                block.words.append(row.words)
            block.digests.append(digest)
            block.held_out.append(self._is_held_out(digest))
            block.labels.append(read.labels[index])
            block.tokens += lengths[index]
            if _ends_block(digest, lengths[index], block.tokens):
                self._flush()

    def close(self) -> CorpusFacts:
        """Write the last block; what the corpus turned out to be."""
        if self._rows.lengths:
            self._flush()
        reading = self._reading
        return CorpusFacts(
            **self._totals,
            duplicates=self.duplicates,
            tokenizer=reading.tokenizer.fingerprint,
            vocabulary=reading.tokenizer.vocabulary,
            max_seq_length=reading.max_seq_length,
            prompt=reading.prompt,
            prompt_tokens=reading.tokenizer.count(reading.prompt),
            labels=self._kinds.labels,
            blocks=tuple(self._blocks),
        )

    def _is_held_out(self, digest: bytes) -> bool:
        drawn = hashlib.blake2b(digest, digest_size=8, key=self._salt).digest()
        return int.from_bytes(drawn, "little") < self._held_below

    def _flush(self) -> None:
        block, self._rows = self._rows, _Rows()
        table, digest = _table(block, self._totals["rows"], self._reading, self._kinds)
        data = corpus.encode_block(table)
        name = f"block-{io.digest_bytes(data).rpartition(':')[2][:16]}.arrow"
        io.write_file(self._folder / name, data)
        self._blocks.append(
            BlockFacts(
                name=name,
                first_row=self._totals["rows"],
                rows=len(table),
                tokens=block.tokens,
                tokens_digest=digest,
            )
        )
        self._totals["rows"] += len(table)
        self._totals["tokens"] += block.tokens
        self._totals["held_out"] += sum(block.held_out)


def _table(block: _Rows, first: int, reading: Reading, kinds: Kinds) -> tuple[pa.Table, str]:
    """The columns of a block, and the digest of its tokens."""
    schema = corpus.schema(
        reading.tokenizer.vocabulary,
        pairs=bool(kinds.pairs),
        words=bool(kinds.words),
        label=kinds.label,
    )
    ids, lengths = np.concatenate(block.ids), np.asarray(block.lengths, np.int64)
    second_at = np.asarray(block.second_at, np.int64) if kinds.pairs else None
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = {
        "row": np.arange(first, first + len(lengths)),
        "text_digest": block.digests,
        "held_out": block.held_out,
        "length": lengths,
        "input_ids": ids,
        "second_at": second_at,
        "words": block.words,
        "word": np.concatenate(block.word_of) if block.word_of else None,
        "label": block.labels,
    }
    arrays = [
        _lists(starts, columns[column.name], column.type)
        if column.name in {"input_ids", "word"}
        else pa.array(columns[column.name], column.type)
        for column in schema
    ]
    return pa.table(arrays, schema=schema), corpus.tokens_digest(ids, lengths, second_at)


def _lists(starts: npt.NDArray[np.int32], values: Any, kind: pa.ListType) -> pa.ListArray:
    return pa.ListArray.from_arrays(starts, pa.array(values, kind.value_type), type=kind)


def _ends_block(digest: bytes, length: int, tokens: int) -> bool:
    """Whether a block ends after this row: the text decides once the block is large enough."""
    if tokens < SMALLEST:
        return False
    drawn = int.from_bytes(digest[:4], "little") / 2**32
    return drawn < length / SPREAD or tokens >= LARGEST
