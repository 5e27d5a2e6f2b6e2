"""Which digests have come before: a hash table of 16 bytes for each, in one array.

A set of Python's takes six times as much, and a corpus of a hundred million texts has a digest for
each. Legend: R digests that are looked up together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_FULLEST = 0.7
"""Share of the places that are taken before the table doubles: above it, looking takes long."""
_MOVED = 1 << 16
"""Places whose digests move together as it doubles, so that little memory is needed beside it."""

Halves = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]
"""[R] and [R]: digests of 16 bytes as two numbers, which are drawn evenly, so that the first one
says where they go."""


class Seen:
    """Digests that have come before."""

    def __init__(self) -> None:
        self._table = _empty(1 << 12)
        self._count = 0

    def new(self, digests: Sequence[bytes], *, add: bool) -> npt.NDArray[np.bool_]:
        """[R]: which of these have not come before; with `add` they have then.

        With it also the second of two that are equal is not new.
        """
        both = np.frombuffer(b"".join(digests), np.uint64)
        asked = both[::2].copy(), both[1::2].copy()
        if not add:
            return self._look(asked, add=False)
        while self._count + len(digests) > _FULLEST * len(self._table[0]):
            self._double()
        found = self._look(asked, add=True)
        self._count += int(found.sum())
        return found

    def _look(self, asked: Halves, *, add: bool) -> npt.NDArray[np.bool_]:
        """Each begins at the place of its own number, and goes on to the next while it is taken."""
        (one, two), (first, second) = self._table, asked
        new, last = np.zeros(len(first), np.bool_), len(one) - 1
        left, places = np.arange(len(first)), (first & np.uint64(last)).astype(np.int64)
        while len(left):
            there, beside = one[places], two[places]
            free = (there | beside) == 0
            going = (there != first[left]) | (beside != second[left])
            if add:
                # Of several that meet at a free place the first one takes it, others look again.
                taken, winner = np.unique(places[free], return_index=True)
                winners = left[free][winner]
                one[taken], two[taken] = first[winners], second[winners]
                new[winners] = True
                going &= ~new[left]
                places = (places + ~free)[going] & last
            else:
                new[left[free]] = True
                going &= ~free
                places = (places[going] + 1) & last
            left = left[going]
        return new

    def _double(self) -> None:
        old = self._table
        self._table = _empty(2 * len(old[0]))
        for begin in range(0, len(old[0]), _MOVED):
            one, two = (half[begin : begin + _MOVED] for half in old)
            taken = (one | two) != 0
            self._look((one[taken], two[taken]), add=True)


def _empty(places: int) -> Halves:
    """A free place is zeros, which no digest is in the lifetime of the universe."""
    return np.zeros(places, np.uint64), np.zeros(places, np.uint64)
