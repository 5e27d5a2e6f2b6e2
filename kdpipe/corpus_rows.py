"""The rows of a corpus before they are read: from its sources, no text twice, some held out."""

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
        self._held_below = int(spec.validation * 2**64)

    def __iter__(self) -> Iterator[tuple[bytes, Row]]:
        """Rows with their digests, at most `max_rows`."""
        return itertools.islice(self._all(), self._spec.max_rows)

    def is_held_out(self, digest: bytes) -> bool:
        """Whether no student trains on the row with this digest."""
        drawn = hashlib.blake2b(digest, digest_size=8, key=self._salt).digest()
        return int.from_bytes(drawn, "little") < self._held_below

    def _all(self) -> Iterator[tuple[bytes, Row]]:
        seen: set[bytes] = set()
        for source in self._spec.sources:
            for row in source.rows(self._root):
                digest = text_digest(row.text, row.text_pair)
                if self._spec.deduplicate:
                    if digest in seen:
                        self.duplicates += 1
                        continue
                    seen.add(digest)
                yield digest, row
