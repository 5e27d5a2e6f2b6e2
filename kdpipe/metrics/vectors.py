"""How alike two lists of numbers, or two spaces of vectors, are: pure functions of numpy arrays.

Legend: R rows, D width of one space, E width of another. No function gives NaN for finite input:
where one side does not vary, or a vector is zero, nothing can be alike and the answer is 0.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
_Bools = npt.NDArray[np.bool_]

_CHUNK = 1 << 20
"""Cosines held at once by `neighbour_recall`."""


def pearson(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Linear correlation of `[R]` and `[R]`, in [-1, 1]; 0.0 where one of them is constant."""
    left, right = _centred(a), _centred(b)
    scale = np.linalg.norm(left) * np.linalg.norm(right)
    return float(np.clip(left @ right / scale, -1.0, 1.0)) if scale > 0 else 0.0


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Correlation of the ranks of `[R]` and `[R]`; equal values share the mean of their ranks."""
    return pearson(_ranks(a), _ranks(b))


def cosine_rows(a: Array, b: Array) -> npt.NDArray[np.float64]:
    """[R]: cosine of each row of `[R, D]` with the same row of `[R, D]`; 0.0 for a zero vector."""
    result: npt.NDArray[np.float64] = np.sum(_unit(a) * _unit(b), axis=1, dtype=np.float64)
    return result


def neighbour_recall(student: Array, teacher: Array, k: int = 10) -> float:
    """Mean share of the teacher's k nearest rows that are among the student's k nearest.

    `student [R, D]` and `teacher [R, E]` are the same rows; near is a high cosine, a row is no
    neighbour of itself, of equally near rows the first ones count. Rows are taken in chunks, so
    memory is bounded. With at most k other rows all of them are neighbours; 0.0 with none.
    """
    rows = len(teacher)
    k = min(k, rows - 1)
    if k < 1:
        return 0.0
    mine, theirs = _unit(student), _unit(teacher)
    found, step = 0, max(1, _CHUNK // rows)
    for start in range(0, rows, step):
        near = _nearest(theirs, start, step, k) & _nearest(mine, start, step, k)
        found += int(np.count_nonzero(near))
    return found / (k * rows)


def pair_spearman(student: Array, teacher: Array, pairs: int = 20_000, seed: int = 0) -> float:
    """Spearman between the cosines of the same pairs of rows in `[R, D]` and in `[R, E]`.

    All pairs of different rows where there are at most `pairs`, else that many drawn at random.
    """
    left, right = _pairs(len(teacher), pairs, seed)
    mine, theirs = _unit(student), _unit(teacher)
    return spearman(
        np.einsum("rd,rd->r", mine[left], mine[right], dtype=np.float64),
        np.einsum("rd,rd->r", theirs[left], theirs[right], dtype=np.float64),
    )


def _centred(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """`[R]` minus its mean; exactly zero where all values are equal, which rounding would hide."""
    array = np.asarray(values, np.float64)
    if array.size == 0 or np.all(array == array[0]):
        return np.zeros_like(array)
    centred: npt.NDArray[np.float64] = array - array.mean()
    return centred


def _ranks(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """`[R]`, from 1 on; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (ends - (counts - 1) / 2)[inverse]
    return ranks


def _unit(vectors: Array) -> Array:
    """`[R, D]` with rows of length 1; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _nearest(vectors: Array, start: int, step: int, k: int) -> _Bools:
    """[S, R]: for rows `start` to `start + step`, which rows are their k nearest."""
    cosines = vectors[start : start + step] @ vectors.T
    own = np.arange(len(cosines))
    cosines[own, start + own] = -np.inf
    border = np.partition(cosines, -k, axis=1)[:, -k, None]
    above, level = cosines > border, cosines == border
    room = k - np.count_nonzero(above, axis=1)[:, None]
    nearest: _Bools = above | (level & (np.cumsum(level, axis=1, dtype=np.int32) <= room))
    return nearest


def _pairs(rows: int, pairs: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Two lists of rows, different at every place."""
    if rows * (rows - 1) // 2 <= pairs:
        left, right = np.triu_indices(rows, k=1)
        return left, right
    generator = np.random.Generator(np.random.PCG64(seed))
    left = generator.integers(0, rows, pairs)
    return left, (left + generator.integers(1, rows, pairs)) % rows
