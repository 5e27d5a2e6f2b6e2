"""Vectors of rows in several shards come in the order of the rows."""

from __future__ import annotations

import numpy as np
import pytest

from kdpipe.gather import Arrays, Shard, gather, spread

COUNTS = [[3, 0, 1, 2], [5], [0, 0], [1, 1, 1]]
"""Vectors of each row of each shard."""


def shard(number: int) -> Arrays:
    """Vectors that say where they are from: shard, and place in it."""
    size = sum(COUNTS[number])
    values = np.stack([np.full(size, number), np.arange(size)], axis=1)
    return {"values": values, "scale": np.arange(size) + 100.0 * number}


def starts(number: int) -> np.ndarray:
    return np.cumsum([0, *COUNTS[number]])


@pytest.mark.parametrize("seed", range(20))
def test_rows_of_several_vectors(seed: int) -> None:
    draw = np.random.default_rng(seed)
    shards = draw.integers(0, len(COUNTS), size=draw.integers(1, 12))
    rows = np.array([draw.integers(0, len(COUNTS[number])) for number in shards])
    read: list[int] = []

    def once(number: int) -> Shard:
        read.append(number)
        return shard(number), starts(number)

    found = gather(shards, rows, once)
    wanted: dict[str, list[np.ndarray]] = {"values": [], "scale": []}
    for number, row in zip(shards.tolist(), rows.tolist(), strict=True):
        first, last = starts(number)[row : row + 2]
        for name, tensor in shard(number).items():
            wanted[name].append(tensor[first:last])
    for name, pieces in wanted.items():
        assert np.array_equal(found[name], np.concatenate(pieces))
    assert sorted(read) == sorted({*shards.tolist()})


@pytest.mark.parametrize("shards", [[2, 0, 2, 1, 0], [0, 1, 2], [1, 1]])
def test_rows_of_one_vector_each(shards: list[int]) -> None:
    rows = np.arange(len(shards))[::-1] % 3
    found = gather(
        np.array(shards), rows, lambda number: ({"values": np.arange(3) + 10 * number}, None)
    )
    wanted = [row + 10 * number for number, row in zip(shards, rows.tolist(), strict=True)]
    assert found["values"].tolist() == wanted


def test_spread() -> None:
    first, counts = np.array([7, 0, 4]), np.array([2, 0, 3])
    assert spread(first, counts).tolist() == [7, 8, 4, 5, 6]
    assert spread(first[:0], counts[:0]).tolist() == []
