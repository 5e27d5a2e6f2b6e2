"""Vectors of rows that lie in several shards, put together in the order of the rows.

Legend: R rows, V vectors. Each shard is looked at once, whatever the order of the rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer[Any]]
Arrays = dict[str, npt.NDArray[Any]]
"""[V, ...] by name."""
Shard = tuple[Arrays, Ints | None]
"""What is in a shard, and where the vectors of each row begin [R + 1]; None: one for each."""


def gather(shards: Ints, rows: Ints, read: Callable[[int], Shard]) -> Arrays:
    """The vectors of rows, row after row, of each array that a shard has.

    Args:
        shards: [R]: in which shard each row lies.
        rows: [R]: where it lies there.
        read: Gives a shard by its number.
    """
    order = np.argsort(shards, kind="stable")
    numbers, places = shards[order], rows[order]
    cuts = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist(), len(rows)]
    pieces, counts = list[tuple[Arrays, Ints]](), list[Ints]()
    for first, last in itertools.pairwise(cuts):
        arrays, starts = read(int(numbers[first]))
        mine = places[first:last]
        if starts is not None:
            begin = starts[mine]
            counts.append(starts[mine + 1] - begin)
            mine = spread(begin, counts[-1])
        pieces.append((arrays, mine))
    found = {name: _taken(name, pieces) for name in pieces[0][0]}
    if (order[1:] > order[:-1]).all():
        return found
    back = np.empty_like(order)
    if counts:
        in_order = np.concatenate(counts)
        of_row = np.empty_like(order)
        back[order], of_row[order] = np.cumsum(in_order) - in_order, in_order
        back = spread(back, of_row)
    else:
        back[order] = np.arange(len(order))
    return {name: array.take(back, axis=0) for name, array in found.items()}


def _taken(name: str, pieces: list[tuple[Arrays, Ints]]) -> npt.NDArray[Any]:
    first, size = pieces[0][0][name], sum(len(places) for _, places in pieces)
    out, end = np.empty((size, *first.shape[1:]), first.dtype), 0
    for arrays, places in pieces:
        begin, end = end, end + len(places)
        # Other modes than this one copy twice; there is nothing to clip, shapes have been checked.
        arrays[name].take(places, axis=0, out=out[begin:end], mode="clip")
    return out


def spread(first: Ints, counts: Ints) -> npt.NDArray[np.int64]:
    """[V]: `first[0]`, `first[0] + 1`, ... `counts[0]` of them, then those of the next row."""
    ends = np.cumsum(counts, dtype=np.int64)
    shift = np.repeat(first - (ends - counts), counts)
    places: npt.NDArray[np.int64] = shift + np.arange(len(shift))
    return places
