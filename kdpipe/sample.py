"""Some rows of a corpus that is not there yet, tokenised in memory: what they tell of all of them.

Which rows is decided by their text alone, so of two corpora with the same text it is the same ones.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from kdpipe import artifact, blocks, corpus, io, write_corpus
from kdpipe.blocks import Block
from kdpipe.corpus import Corpus
from kdpipe.corpus_rows import Chosen, Distinct
from kdpipe.errors import ArtifactError
from kdpipe.fill_blocks import Reading
from kdpipe.pipeline import CorpusSpec
from kdpipe.progress import Progress

MOST = 4 * write_corpus.CHUNK
"""Rows that are tokenised."""


@dataclass(frozen=True, eq=False)
class InMemory(Corpus):
    """A corpus whose blocks are on no disk."""

    held: tuple[Block, ...]

    @functools.cache  # noqa: B019 - as of every corpus
    def block(self, index: int) -> Block:
        """One block."""
        return self.held[index]


@dataclass(frozen=True)
class Sample:
    """Rows of a corpus, and what was found while they were read."""

    corpus: Corpus
    times: float
    """How many times as many rows the whole has."""
    exact: bool
    """Whether these are all rows, in the blocks that they belong to."""
    bytes: int
    """Of these rows' blocks."""
    seconds: float
    """For the whole corpus."""


def sample(spec: CorpusSpec, folder: Path, reading: Reading, root: Path, seconds: float) -> Sample:
    """All text is read once; of its rows as many are tokenised as can be in about `seconds`.

    Raises:
        ArtifactError: no rows, or rows that cannot be tokenised together.
    """
    begin, distinct, took = time.perf_counter(), Distinct(spec, root), 0
    with write_corpus.nothing_old_is_garbage():
        drawn, rows = draw(distinct, MOST)
    if not rows:
        raise ArtifactError(f"{folder}: the sources have no text: check their files and columns")
    read, begin = time.perf_counter() - begin, time.perf_counter()

    def chunks() -> Iterator[list[Chosen]]:
        nonlocal took
        for chunk in write_corpus.chunked(drawn):
            took += len(chunk)
            yield chunk
            if time.perf_counter() - begin > seconds:
                return

    kept: dict[str, bytes] = {}
    facts = write_corpus.encode_corpus(spec, reading, distinct, chunks(), kept.__setitem__)
    times = rows / took
    works = sorted([read, (time.perf_counter() - begin) * times])
    # Rows are read while the tokenizer's own code runs, on the same cores.
    whole = works[1] + works[0] / (os.cpu_count() or 1)
    tables = (pa.ipc.open_file(kept[one.name]) for one in facts.blocks)
    made = InMemory(
        folder,
        artifact.Manifest(
            format=corpus.KIND,
            version=artifact.VERSIONS[corpus.KIND],
            spec=spec.identity(),
            inputs={},
            facts={},
            files=(),
        ),
        io.identity(facts.identity()),
        facts,
        tuple(blocks.views(table.read_all()) for table in tables),
    )
    exact = rows <= write_corpus.CHUNK
    return Sample(made, times, exact, sum(map(len, kept.values())), whole)


def draw(rows: Iterable[Chosen], most: int) -> tuple[list[Chosen], int]:
    """At most so many of the rows, and how many there are.

    Where not all are taken, they come in the order of numbers that are drawn by their text: the
    first of them are a fair sample too. Those of one chunk, all of which are tokenised in any case,
    stay as they are.
    """
    numbers = itertools.count()
    with Progress("read", total=None, unit="rows") as bar:

        def counted() -> Iterator[tuple[Chosen, int]]:
            for chunk in write_corpus.chunked(rows):
                # The rows come first: in the end the next number is how many there were.
                yield from zip(chunk, numbers, strict=False)
                bar.advance(len(chunk))

        # Other bytes than those that end blocks.
        kept = heapq.nsmallest(most, counted(), key=lambda pair: pair[0].digest[8:])
    if len(kept) <= write_corpus.CHUNK:
        kept.sort(key=lambda pair: pair[1])
    return [row for row, _ in kept], next(numbers)
