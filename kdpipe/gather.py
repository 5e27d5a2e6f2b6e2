"""Vectors of rows that lie in several shards, put together in the order of the rows.

Legend: R rows, V vectors, D width. Each shard is read once, whatever the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.integer[Any]]
Shard = tuple[dict[str, Tensor], Ints | None]
"""Tensors [V, ...] by name, and where the vectors of each row begin [R + 1]; None: one for each."""


def gather(shards: Ints, rows: Ints, read: Callable[[int], Shard]) -> dict[str, Tensor]:
    """The vectors of rows, row after row, of each tensor that a shard has.

    Args:
        shards: [R]: in which shard each row lies.
        rows: [R]: where it lies there.
        read: Gives a shard by its number.
    """
    order = np.argsort(shards, kind="stable")
    counts = np.ones(len(rows), np.int64)
    pieces: dict[str, list[Tensor]] = {}
    one_each = True
    for run in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
        tensors, starts = read(int(shards[run[0]]))
        places: Ints = rows[run]
        if starts is not None:
            first = starts[places]
            counts[run] = starts[places + 1] - first
            places, one_each = spread(first, counts[run]), False
        chosen = torch.from_numpy(places.astype(np.int64, copy=False))
        for name, tensor in tensors.items():
            pieces.setdefault(name, []).append(tensor.index_select(0, chosen))
    begins = np.empty(len(rows), np.int64)
    begins[order] = np.cumsum(counts[order]) - counts[order]
    back = torch.from_numpy(begins if one_each else spread(begins, counts))
    sorted_already = bool((np.diff(order) == 1).all())
    joined = {name: torch.cat(parts) for name, parts in pieces.items()}
    if sorted_already:
        return joined
    return {name: tensor.index_select(0, back) for name, tensor in joined.items()}


def spread(first: Ints, counts: Ints) -> npt.NDArray[np.int64]:
    """[V]: `first[0]`, `first[0] + 1`, ... `counts[0]` of them, then those of the next row."""
    ends = np.cumsum(counts, dtype=np.int64)
    shift = np.repeat(first - (ends - counts), counts)
    places: npt.NDArray[np.int64] = shift + np.arange(len(shift))
    return places
