"""Pairs of long texts are cut here, not by the backend, which keeps what it cuts off.

It keeps that in pieces as long as a row, and of a pair each piece of one text beside each of the
other: of two texts of 32,000 words these are 6 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_MOST = 1
"""Times what both texts take, by their characters, that the backend may keep: with fewer it is not
slower to cut them here."""


@dataclass(frozen=True)
class CutPair:
    """What is read of an encoding."""

    ids: list[int]
    type_ids: list[int]


def long_pairs(texts: Sequence[str | tuple[str, str]], limit: int) -> list[int]:
    """Places of the pairs that the backend should not cut to `limit` tokens."""
    return [
        place
        for place, text in enumerate(texts)
        if not isinstance(text, str) and _is_long(len(text[0]), len(text[1]), limit)
    ]


def cut_pair(whole: Any, limit: int) -> CutPair:
    """The encoding of a whole pair as the backend cuts it, special tokens included."""
    sides = np.array([-1 if side is None else side for side in whole.sequence_ids], np.int64)
    first, second = (np.flatnonzero(sides == side) for side in (0, 1))
    room = limit - int((sides == -1).sum())
    kept = _kept(len(first), len(second), room)
    dropped = np.concatenate([first[kept[0] :], second[kept[1] :]])
    ids, types = (np.delete(np.array(values), dropped) for values in (whole.ids, whole.type_ids))
    return CutPair(ids.tolist(), types.tolist())


def _is_long(first: int, second: int, limit: int) -> bool:
    return first * second > _MOST * limit * (first + second)


def _kept(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens of each text: the shorter one is whole where it takes no more than half the room."""
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= second:
        return (first, room - first) if first <= half else (half, room - half)
    return (room - second, second) if second <= half else (room - half, half)
