"""Which rows go together: plans that are pure functions of lengths, budget and seed.

A batch is padded to its longest row, so rows of like length belong together; its cost is rows times
longest row, held below a budget of padded tokens. A row longer than the budget is a batch by
itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32] | npt.NDArray[np.int64]

_POOL = 64
"""Batches that are cut from one length-sorted pool of shuffled rows."""


def cut(
    order: Rows, lengths: Lengths, tokens_per_batch: int, overhead: int | None = None
) -> list[Rows]:
    """Cut rows, in their order, into batches of at most `tokens_per_batch` padded tokens.

    With `overhead`, what a forward pass costs beside its tokens, counted in tokens, a batch also
    ends before it would have more padding than that.
    """
    borders, start, longest, real = [0], 0, 0, 0
    for index, length in enumerate(lengths[order].tolist()):
        longest, real = max(longest, length), real + length
        padded = longest * (index - start + 1)
        wasteful = overhead is not None and padded - real > overhead
        if index > start and (padded > tokens_per_batch or wasteful):
            borders.append(index)
            start, longest, real = index, length, length
    borders.append(len(order))
    return [order[left:right] for left, right in pairwise(borders) if right > left]


def by_length(lengths: Lengths, tokens_per_batch: int, overhead: int | None = None) -> list[Rows]:
    """All rows, shortest first, in batches: the plan of every pass that only reads."""
    return cut(np.argsort(lengths, kind="stable"), lengths, tokens_per_batch, overhead)


def epoch_plan(
    rows: Rows, lengths: Lengths, tokens_per_batch: int, *, seed: int, epoch: int, again: int = 0
) -> list[Rows]:
    """The batches of one epoch in their order, the same for any number of workers.

    Rows are shuffled, taken in pools of about 64 batches, sorted by length within a pool, cut, and
    the batches of all pools are shuffled: random enough to train on, and nearly without padding.
    Where an epoch goes through them several times, `again` counts these.
    """
    # Zeros at its end change nothing of what a seed gives; its third number tells other uses apart.
    generator = np.random.Generator(np.random.PCG64([seed, epoch, 0, again]))
    shuffled = generator.permutation(rows)
    # A row belongs to the pool in which its last token is, counted over all rows.
    pool_of = (np.cumsum(lengths[shuffled], dtype=np.int64) - 1) // (_POOL * tokens_per_batch)
    borders = np.flatnonzero(np.diff(pool_of)) + 1
    batches = []
    for pool in np.split(shuffled, borders):
        batches += cut(pool[np.argsort(lengths[pool], kind="stable")], lengths, tokens_per_batch)
    return [batches[index] for index in generator.permutation(len(batches))]


def alternate(
    kinds: Sequence[Rows], lengths: Lengths, tokens_per_batch: int, *, seed: int, epoch: int
) -> list[Rows]:
    """The batches of one epoch, of each kind of rows in turn: one, other, one, other, ...

    All rows of the kind with the most batches come once; those of the others, of which there has to
    be one at least, come again in another order as often as that takes.
    """
    plans = [epoch_plan(rows, lengths, tokens_per_batch, seed=seed, epoch=epoch) for rows in kinds]
    most = max(map(len, plans))
    for place, rows in enumerate(kinds):
        again = 0
        while len(plans[place]) < most:
            again += 1
            plans[place] += epoch_plan(
                rows, lengths, tokens_per_batch, seed=seed, epoch=epoch, again=again
            )
    return [plan[turn] for turn in range(most) for plan in plans]
