"""The rows of a corpus before they are read: a share of its sources, no text twice."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from kdpipe.corpus import text_digest
from kdpipe.pipeline import CorpusSpec
from kdpipe.sources import Row


class Distinct:
    """The rows that a corpus has, each time anew from its sources."""

    def __init__(self, spec: CorpusSpec, root: Path) -> None:
        self.duplicates = 0
        """Rows that were left out so far because their text had come before."""
        self._spec, self._root = spec, root
        self._salt = spec.seed.to_bytes(8, "little", signed=True)

    def __iter__(self) -> Iterator[tuple[bytes, Row]]:
        """Rows with their digests, at most `max_rows`."""
        return itertools.islice(self._all(), self._spec.max_rows)

    def is_held_out(self, row: Row) -> bool:
        """Whether no student trains on a row: its group decides, or its text where it has none."""
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

    def _all(self) -> Iterator[tuple[bytes, Row]]:
        seen: set[bytes] = set()
        for source in self._spec.sources:
            for row in filter(self._is_wanted, source.rows(self._root)):
                digest = text_digest(row.whole)
                if self._spec.deduplicate:
                    if digest in seen:
                        self.duplicates += 1
                        continue
                    seen.add(digest)
                yield digest, row
