"""The rows of a corpus before they are read: a share of its sources, no text twice."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdpipe.corpus import text_digest
from kdpipe.pipeline import CorpusSpec
from kdpipe.seen import Seen
from kdpipe.sources import Row, Source

_Row = tuple[bytes, Row]
"""A row and the digest of its text."""
_TOGETHER = 4096
"""Rows that are looked up together."""


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
        salt = spec.seed.to_bytes(8, "little", signed=True)
        self._share, self._side = (
            hashlib.blake2b(digest_size=8, key=salt, person=what) for what in (b"share", b"")
        )

    def __iter__(self) -> Iterator[Chosen]:
        """Rows of `validation_sources`, then at most `max_rows` of the others.

        What is held out comes first, so that of equal texts it is the one that stays; with
        `deduplicate: false` too no text that is held out is among those to train on.
        """
        spec, known = self._spec, Seen()
        yield from self._new(self._read(spec.validation_sources), known, held_out=True)
        rows = self._read(spec.sources)
        yield from self._new(rows if spec.share is None else self._wanted(rows), known)

    def _wanted(self, rows: Iterator[_Row]) -> Iterator[_Row]:
        """Those of the share."""
        assert self._spec.share is not None
        first, last = self._spec.share
        return (one for one in rows if first <= _drawn(self._share, [one])[0] < last)

    def _read(self, sources: Sequence[Source]) -> Iterator[_Row]:
        for source in sources:
            for row in source.rows(self._root):
                yield text_digest(row.whole), row

    def _new(
        self, rows: Iterator[_Row], known: Seen, *, held_out: bool = False
    ) -> Iterator[Chosen]:
        """Rows whose text is not known, which they become: all, or with `deduplicate`.

        Without it equal texts are held out as often as they come.
        """
        spec = self._spec
        every = held_out and not spec.deduplicate
        left = sys.maxsize if held_out or spec.max_rows is None else spec.max_rows
        # No row is read that is not needed: one after the last may be wrong.
        while some := [*itertools.islice(rows, min(left, _TOGETHER))]:
            digests = [digest for digest, _ in some]
            new = known.new(digests, add=held_out or spec.deduplicate).tolist()
            sides = [held_out] * len(some) if held_out else self._sides(some)
            for (digest, row), side, is_new in zip(some, sides, new, strict=True):
                if is_new or every:
                    left -= 1
                    yield Chosen(digest, row, side)
                else:
                    self.duplicates += 1

    def _sides(self, rows: list[_Row]) -> list[bool]:
        """Which rows of `sources` are held out: their group decides, or their text without one."""
        if self._spec.validation_sources or not self._spec.validation:
            return [False] * len(rows)
        sides: list[bool] = (_drawn(self._side, rows) < self._spec.validation).tolist()
        return sides


def _drawn(keyed: Any, rows: Sequence[_Row]) -> npt.NDArray[np.float64]:
    """From 0 to below 1, by the group of each row, or by its text where it has none."""
    drawn = []
    for digest, row in rows:
        state = keyed.copy()
        state.update(digest if row.group is None else text_digest(row.group))
        drawn.append(state.digest())
    return (np.frombuffer(b"".join(drawn), "<u8") >> 11) / 2**53
