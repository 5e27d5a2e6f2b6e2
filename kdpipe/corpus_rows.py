"""The rows of a corpus before they are read: a share of its sources, no text twice."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kdpipe.corpus import text_digest
from kdpipe.pipeline import CorpusSpec
from kdpipe.sources import Row, Source


class Chosen(NamedTuple):
    """A row that a corpus has."""

    digest: bytes
    """Of its text."""
    row: Row
    held_out: bool
    """Whether no student trains on it."""


class Distinct:
    """The rows that a corpus has, each time anew from its sources."""

    def __init__(self, spec: CorpusSpec, root: Path) -> None:
        self.duplicates = 0
        """Rows that were left out so far because their text had come before."""
        self._spec, self._root = spec, root
        self._salt = spec.seed.to_bytes(8, "little", signed=True)

    def __iter__(self) -> Iterator[Chosen]:
        """Rows of `validation_sources`, then at most `max_rows` of the others.

        What is held out comes first, so that of equal texts it is the one that stays; with
        `deduplicate: false` too no text that is held out is among those to train on.
        """
        spec, known = self._spec, set[bytes]()
        for digest, row in self._new(self._read(spec.validation_sources), set()):
            known.add(digest)
            yield Chosen(digest, row, held_out=True)
        wanted = filter(self._is_wanted, self._read(spec.sources))
        for digest, row in itertools.islice(self._new(wanted, known), spec.max_rows):
            yield Chosen(digest, row, self._is_held_out(row))

    def _is_held_out(self, row: Row) -> bool:
        """Of a row of `sources`: its group decides, or its text where it has none."""
        if self._spec.validation_sources:
            return False
        return self._drawn(row, b"") < self._spec.validation

    def _is_wanted(self, row: Row) -> bool:
        if self._spec.share is None:
            return True
        first, last = self._spec.share
        return first <= self._drawn(row, b"share") < last

    def _drawn(self, row: Row, what: bytes) -> float:
        """From 0 to below 1, by the group of a row, or by its text where it has none."""
        decides = text_digest(row.whole if row.group is None else row.group)
        drawn = hashlib.blake2b(decides, digest_size=8, key=self._salt, person=what).digest()
        return (int.from_bytes(drawn, "little") >> 11) / 2**53

    def _read(self, sources: Sequence[Source]) -> Iterator[Row]:
        return itertools.chain.from_iterable(source.rows(self._root) for source in sources)

    def _new(self, rows: Iterator[Row], known: set[bytes]) -> Iterator[tuple[bytes, Row]]:
        """Rows whose text is not known, and their digests; with `deduplicate` these become so."""
        for row in rows:
            digest = text_digest(row.whole)
            if digest in known:
                self.duplicates += 1
                continue
            if self._spec.deduplicate:
                known.add(digest)
            yield digest, row
