"""From text to a corpus: read, drop duplicates, tokenise, cut into blocks, hold some rows out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdpipe import artifact, blocks, corpus, io, versions
from kdpipe.corpus import BlockFacts, CorpusFacts
from kdpipe.corpus_rows import Chosen, Distinct
from kdpipe.errors import ArtifactError
from kdpipe.known_tokenizers import KnownTokenizer
from kdpipe.masking import UNMASKED, Masking
from kdpipe.pipeline import CorpusSpec
from kdpipe.progress import Progress
from kdpipe.read_rows import as_words, read_rows
from kdpipe.row_kinds import Kinds
from kdpipe.sources import Source
from kdpipe.tokenizer import Tokenizer

SMALLEST = 4_096
"""Tokens before a block may end: few beside SPREAD, so that borders fall on the same rows again
soon after rows were inserted."""
SPREAD = 28_672
"""Tokens that then follow on average until it does."""
LARGEST = 131_072
"""Tokens after which it ends anyway."""
CHUNK = 4096
"""Rows that are tokenised together."""

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


def inputs_of(spec: CorpusSpec, reading: Reading, root: Path) -> dict[str, str]:
    """All that a corpus depends on beside the spec."""
    return {
        "meaning": str(versions.TOKENIZE),
        "tokenizer": reading.known.fingerprint,
        "prompt": reading.prompt,
        "max_seq_length": str(reading.max_seq_length),
        **source_digests(spec, root),
    }


def source_digests(spec: CorpusSpec, root: Path) -> dict[str, str]:
    """What the text depends on beside the spec, by source."""
    return {name: source.state(root) for name, source in named_sources(spec).items()}


def named_sources(spec: CorpusSpec) -> dict[str, Source]:
    """Where the text comes from, by the names that manifests use."""
    named = {"source": spec.sources, "validation_source": spec.validation_sources}
    return {f"{name}.{i}": one for name, sources in named.items() for i, one in enumerate(sources)}


def write_corpus(
    spec: CorpusSpec, folder: Path, reading: Reading, root: Path, inputs: dict[str, str]
) -> CorpusFacts:
    """Make the corpus that `spec` asks for in `folder`; files of an older one are removed.

    Raises:
        ArtifactError: no rows, rows that all are held out, rows of several kinds, labels of several
            types or too many of them.
    """
    distinct = Distinct(spec, root)
    total = None if spec.validation_sources else spec.max_rows
    io.make_folder(folder)
    with Progress("tokenize", total=total, unit="rows") as bar:

        def chunks() -> Iterator[list[Chosen]]:
            for chunk in chunked(distinct):
                yield chunk
                bar.advance(len(chunk))

        def keep(name: str, data: bytes) -> None:
            io.write_file(folder / name, data)

        facts = encode_corpus(spec, reading, distinct, chunks(), keep)
    _refuse_nothing_to_train_on(spec, facts)
    names = [block.name for block in facts.blocks]
    parts = tuple(artifact.part(folder, name) for name in names)
    artifact.unfinish(folder)
    io.prune(folder, {*names})
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


def chunked(rows: Iterable[Chosen]) -> Iterator[list[Chosen]]:
    """Rows as they are tokenised together."""
    left = iter(rows)
    while chunk := list(itertools.islice(left, CHUNK)):
        yield chunk


def encode_corpus(
    spec: CorpusSpec,
    reading: Reading,
    distinct: Distinct,
    chunks: Iterable[list[Chosen]],
    keep: Keep,
) -> CorpusFacts:
    """Rows, of those of `distinct`, as blocks, each of which is given to `keep`."""
    writer = _Writer(spec, reading, distinct, keep)
    for chunk in chunks:
        writer.add(chunk)
    return writer.close()


def _refuse_nothing_to_train_on(spec: CorpusSpec, facts: CorpusFacts) -> None:
    """Raise ArtifactError for no rows, and for rows that all are held out."""
    if facts.rows == 0:
        remedy = "check their files and columns" + (", or widen 'share'" if spec.share else "")
        raise ArtifactError(f"the sources have no text: {remedy}")
    if facts.held_out == facts.rows:
        remedy = "lower 'validation' or add text"
        if spec.validation_sources:
            remedy = "give 'sources' text that 'validation_sources' have not"
        raise ArtifactError(f"all rows ({facts.rows:,}) are held out: {remedy}")


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
    original: list[npt.NDArray[np.int64]] = field(default_factory=list)
    spelling: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    tokens: int = 0
    masked: int = 0


class _Writer:
    """Fills blocks."""

    def __init__(self, spec: CorpusSpec, reading: Reading, distinct: Distinct, keep: Keep) -> None:
        self._reading, self._distinct, self._keep = reading, distinct, keep
        self._rows, self._blocks, self._kinds = _Rows(), list[BlockFacts](), Kinds()
        self._totals = dict.fromkeys(
            ("rows", "held_out", "tokens", "masked", "longest", "cut_rows"), 0
        )
        self._masking = None
        if spec.mlm_probability is not None:
            prompt_tokens = reading.tokenizer.count(reading.prompt)
            self._masking = Masking(
                spec.mlm_probability, spec.seed, reading.tokenizer, prompt_tokens
            )

    def add(self, chunk: list[Chosen]) -> None:
        """Tokenise rows and put them into blocks."""
        reading = self._reading
        rows = as_words(reading.tokenizer, [chosen.row for chosen in chunk])
        self._kinds.add(rows)
        read = read_rows(reading.tokenizer, rows, reading.max_seq_length, reading.prompt)
        encoded = read.encoded
        if self._masking is not None:
            encoded = self._masking.of(encoded, [chunk[index].digest for index in read.row_of])
        borders = np.cumsum(encoded.lengths)[:-1]
        original = None if encoded.original is None else np.split(encoded.original, borders)
        word_of = None if encoded.word_of is None else np.split(encoded.word_of, borders)
        spelling = None if encoded.spelling is None else np.split(encoded.spelling, borders)
        lengths = encoded.lengths.tolist()
        self._totals["cut_rows"] += read.cut
        self._totals["longest"] = max(self._totals["longest"], *lengths)
        for index, ids in enumerate(np.split(encoded.ids, borders)):
            chosen, row = chunk[read.row_of[index]], rows[read.row_of[index]]
            block = self._rows
            block.ids.append(ids)
            block.lengths.append(lengths[index])
            if encoded.second_at is not None:
                block.second_at.append(int(encoded.second_at[index]))
            if word_of is not None:
                block.word_of.append(word_of[index])
                block.words.append(row.words)
            if spelling is not None:
                block.spelling.append(spelling[index])
            if original is not None:
                block.original.append(original[index])
                block.masked += int((original[index] != UNMASKED).sum())
            block.digests.append(chosen.digest)
            block.held_out.append(chosen.held_out)
            block.labels.append(read.labels[index])
            block.tokens += lengths[index]
            if _ends_block(chosen.digest, lengths[index], block.tokens):
                self._flush()

    def close(self) -> CorpusFacts:
        """Write the last block; what the corpus turned out to be."""
        if self._rows.lengths:
            self._flush()
        reading = self._reading
        return CorpusFacts(
            **self._totals,
            duplicates=self._distinct.duplicates,
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
        block, self._rows = self._rows, _Rows()
        table, digest = _table(block, self._totals["rows"], self._reading, self._kinds)
        data = blocks.encode_block(table)
        name = f"block-{io.digest_bytes(data).rpartition(':')[2][:16]}.arrow"
        self._keep(name, data)
        self._blocks.append(
            BlockFacts(
                name=name,
                first_row=self._totals["rows"],
                rows=len(table),
                tokens=block.tokens,
                masked=block.masked,
                tokens_digest=digest,
            )
        )
        self._totals["rows"] += len(table)
        self._totals["tokens"] += block.tokens
        self._totals["masked"] += block.masked
        self._totals["held_out"] += sum(block.held_out)


def _table(block: _Rows, first: int, reading: Reading, kinds: Kinds) -> tuple[pa.Table, str]:
    """The columns of a block, and the digest of its tokens."""
    schema = blocks.schema(
        reading.tokenizer.vocabulary,
        pairs=bool(kinds.pairs),
        words=bool(kinds.words),
        masked=bool(block.original),
        label=kinds.label,
    )
    ids, lengths = np.concatenate(block.ids), np.asarray(block.lengths, np.int64)
    second_at = np.asarray(block.second_at, np.int64) if kinds.pairs else None
    original = np.concatenate(block.original) if block.original else None
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
        "original": original,
        "label": block.labels,
    }
    arrays = [
        _lists(starts, columns[column.name], column.type)
        if column.name in {"input_ids", "word", "original"}
        else pa.array(columns[column.name], column.type)
        for column in schema
    ]
    spelling = np.concatenate(block.spelling) if block.spelling else None
    digest = corpus.tokens_digest(ids, lengths, second_at, original, spelling)
    return pa.table(arrays, schema=schema), digest


def _lists(starts: npt.NDArray[np.int32], values: Any, kind: pa.ListType) -> pa.ListArray:
    return pa.ListArray.from_arrays(starts, pa.array(values, kind.value_type), type=kind)


def _ends_block(digest: bytes, length: int, tokens: int) -> bool:
    """Whether a block ends after this row: the text decides once the block is large enough."""
    if tokens < SMALLEST:
        return False
    drawn = int.from_bytes(digest[:4], "little") / 2**32
    return drawn < length / SPREAD or tokens >= LARGEST
