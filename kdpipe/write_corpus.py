"""From text to a corpus: read, drop duplicates, tokenise, cut into blocks, hold some rows out."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from kdpipe import artifact, corpus, io
from kdpipe.corpus import BlockFacts, CorpusFacts
from kdpipe.errors import ArtifactError
from kdpipe.pipeline import CorpusSpec
from kdpipe.progress import Progress
from kdpipe.sources import Row
from kdpipe.sources.row import Label
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
        ArtifactError: no rows, rows that all are held out, or labels of several types.
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
            text = row.text if row.text_pair is None else f"{row.text}\0{row.text_pair}"
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if spec.deduplicate:
                if digest in seen:
                    writer.duplicates += 1
                    continue
                seen.add(digest)
            yield digest, row


@dataclass
class _Rows:
    """The rows of the block that is being filled."""

    ids: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    second_at: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    held_out: list[bool] = field(default_factory=list)
    labels: list[Label | None] = field(default_factory=list)
    tokens: int = 0


class _Writer:
    """Fills and writes blocks."""

    def __init__(self, spec: CorpusSpec, folder: Path, reading: Reading) -> None:
        self.duplicates = 0
        self._folder, self._reading = folder, reading
        self._salt = spec.seed.to_bytes(8, "little", signed=True)
        self._held_below = int(spec.validation * 2**64)
        self._rows, self._blocks = _Rows(), list[BlockFacts]()
        self._label: pa.DataType | None = None
        self._pairs: bool | None = None
        self._totals = {"rows": 0, "held_out": 0, "tokens": 0, "longest": 0, "cut_rows": 0}
        io.make_folder(folder)

    def add(self, chunk: list[tuple[bytes, Row]]) -> None:
        """Tokenise rows and put them into blocks."""
        prompt, limit = self._reading.prompt, self._reading.max_seq_length
        texts = [
            f"{prompt}{row.text}"
            if row.text_pair is None
            else (f"{prompt}{row.text}", row.text_pair)
            for _, row in chunk
        ]
        encoded = self._reading.tokenizer.encode(texts, limit)
        self._check_kinds([row for _, row in chunk])
        borders = np.cumsum(encoded.lengths)[:-1]
        lengths = encoded.lengths.tolist()
        self._totals["cut_rows"] += int((encoded.lengths >= limit).sum())
        self._totals["longest"] = max(self._totals["longest"], *lengths)
        for index, ids in enumerate(np.split(encoded.ids, borders)):
            digest, row = chunk[index]
            block = self._rows
            block.ids.append(ids)
            block.lengths.append(lengths[index])
            if encoded.second_at is not None:
                block.second_at.append(int(encoded.second_at[index]))
            block.digests.append(digest)
            block.held_out.append(self._is_held_out(digest))
            block.labels.append(row.label)
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
            blocks=tuple(self._blocks),
        )

    def _is_held_out(self, digest: bytes) -> bool:
        drawn = hashlib.blake2b(digest, digest_size=8, key=self._salt).digest()
        return int.from_bytes(drawn, "little") < self._held_below

    def _check_kinds(self, rows: list[Row]) -> None:
        """All rows are pairs or none is, and all labels have one type."""
        pairs = {row.text_pair is not None for row in rows} | {self._pairs} - {None}
        types = {type(row.label) for row in rows if row.label is not None}
        if len(pairs) > 1:
            raise ArtifactError("some rows are pairs and some are not: make two corpora of them")
        names = {int: pa.int64(), float: pa.float64(), str: pa.string()}
        found = {names[kind] for kind in types} | ({self._label} - {None})
        if len(found) > 1:
            kinds = " and ".join(sorted(str(kind) for kind in found))
            raise ArtifactError(f"labels are {kinds}: give all sources labels of one type")
        self._pairs = pairs.pop()
        if found:
            self._label = found.pop()

    def _flush(self) -> None:
        block, self._rows = self._rows, _Rows()
        ids, lengths = np.concatenate(block.ids), np.asarray(block.lengths, np.int64)
        second_at = np.asarray(block.second_at, np.int64) if self._pairs else None
        schema = corpus.schema(
            self._reading.tokenizer.vocabulary, pairs=bool(self._pairs), label=self._label
        )
        first, count = self._totals["rows"], len(lengths)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        tokens = pa.array(ids, schema.field("input_ids").type.value_type)
        columns = {
            "row": pa.array(np.arange(first, first + count)),
            "text_digest": pa.array(block.digests, pa.binary(16)),
            "held_out": pa.array(block.held_out),
            "length": pa.array(lengths, pa.int32()),
            "input_ids": pa.ListArray.from_arrays(
                starts, tokens, type=schema.field("input_ids").type
            ),
            "second_at": pa.array(second_at, pa.int32()) if second_at is not None else None,
            "label": pa.array(block.labels, self._label) if self._label is not None else None,
        }
        table = pa.table([columns[name] for name in schema.names], schema=schema)
        data = corpus.encode_block(table)
        name = f"block-{io.digest_bytes(data).rpartition(':')[2][:16]}.arrow"
        io.write_file(self._folder / name, data)
        digest = corpus.tokens_digest(ids, lengths, second_at)
        self._blocks.append(
            BlockFacts(
                name=name, first_row=first, rows=count, tokens=block.tokens, tokens_digest=digest
            )
        )
        self._totals["rows"] += count
        self._totals["tokens"] += block.tokens
        self._totals["held_out"] += sum(block.held_out)


def _ends_block(digest: bytes, length: int, tokens: int) -> bool:
    """Whether a block ends after this row: the text decides once the block is large enough."""
    if tokens < SMALLEST:
        return False
    drawn = int.from_bytes(digest[:4], "little") / 2**32
    return drawn < length / SPREAD or tokens >= LARGEST
