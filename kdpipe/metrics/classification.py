"""How often a classifier is right: one class a row, or any number of labels a row.

Legend: R rows, C classes. `[R]` of integers is one class a row; `[R, C]` of bools is multi-label.
Where nothing is predicted and nothing is there, nothing can be right and the answer is 0.0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

_Labels = npt.NDArray[np.integer[Any] | np.bool_]
_Counts = npt.NDArray[np.int64]


def accuracy(predicted: npt.ArrayLike, gold: npt.ArrayLike) -> float:
    """Share of the rows of `[R]` or `[R, C]` that are right; in multi-label all C must be."""
    mine, theirs = _pair(predicted, gold)
    right = mine == theirs
    if right.ndim == 2:
        right = right.all(axis=1)
    return int(np.count_nonzero(right)) / max(len(right), 1)


def micro_f1(predicted: npt.ArrayLike, gold: npt.ArrayLike) -> float:
    """F1 of all decisions of `[R]` or `[R, C]` together; of `[R]` it is the accuracy."""
    both, mine, theirs = _tallies(predicted, gold)
    return 2 * int(both.sum()) / max(int(mine.sum() + theirs.sum()), 1)


def macro_f1(predicted: npt.ArrayLike, gold: npt.ArrayLike) -> float:
    """Mean F1 of the classes of `[R]` that are predicted or there, or of all C of `[R, C]`."""
    both, mine, theirs = _tallies(predicted, gold)
    shares = 2 * both / np.maximum(mine + theirs, 1)
    return float(shares.mean()) if shares.size else 0.0


def binary_f1(predicted: npt.ArrayLike, gold: npt.ArrayLike, positive: int = 1) -> float:
    """F1 of one class of `[R]`, as GLUE scores MRPC and QQP."""
    mine, theirs = _pair(predicted, gold)
    return micro_f1((mine == positive)[:, None], (theirs == positive)[:, None])


def matthews(predicted: npt.ArrayLike, gold: npt.ArrayLike) -> float:
    """Matthews correlation of `[R]`, in [-1, 1], of any number of classes.

    Gorodkin's R_K (2004), which is the phi coefficient for two classes; 0.0 where one side has
    one class only.
    """
    assert np.ndim(gold) == 1, np.shape(gold)
    both, mine, theirs = _tallies(predicted, gold)
    rows = int(theirs.sum())
    # Whole numbers of Python's, since the product of two variances is beyond 64 bits.
    shared = int(both.sum()) * rows - int(mine @ theirs)
    spread = (rows**2 - int(mine @ mine)) * (rows**2 - int(theirs @ theirs))
    return shared / math.sqrt(spread) if spread > 0 else 0.0


def agreement(student: npt.ArrayLike, teacher: npt.ArrayLike) -> float:
    """Share of rows whose greatest of C scores is at the same place in `[R, C]` and `[R, C]`.

    Of equal greatest scores the first one counts.
    """
    mine, theirs = np.asarray(student), np.asarray(teacher)
    assert mine.ndim == 2, mine.shape
    assert mine.shape == theirs.shape, (mine.shape, theirs.shape)
    return accuracy(mine.argmax(axis=1), theirs.argmax(axis=1))


def _pair(predicted: npt.ArrayLike, gold: npt.ArrayLike) -> tuple[_Labels, _Labels]:
    """Both as arrays of one shape, `[R]` or `[R, C]`."""
    mine, theirs = np.asarray(predicted), np.asarray(gold)
    assert mine.shape == theirs.shape, (mine.shape, theirs.shape)
    assert mine.ndim in {1, 2}, mine.shape
    kinds = "b" if mine.ndim == 2 else "biu"
    for array in (mine, theirs):
        assert array.dtype.kind in kinds or array.size == 0, array.dtype
    return mine, theirs


def _tallies(predicted: npt.ArrayLike, gold: npt.ArrayLike) -> tuple[_Counts, _Counts, _Counts]:
    """Of each class `[C]`: rightly predicted, predicted, there; of `[R]` only what occurs."""
    mine, theirs = _pair(predicted, gold)
    if mine.ndim == 2:
        mine, theirs = mine.astype(bool), theirs.astype(bool)
        both, here, there = (np.sum(side, 0) for side in (mine & theirs, mine, theirs))
        return both, here, there
    classes, places = np.unique(np.concatenate([mine, theirs]), return_inverse=True)
    left, right = np.split(places, [len(mine)])
    both, here, there = (
        np.bincount(side, minlength=len(classes)) for side in (left[left == right], left, right)
    )
    return both, here, there
