"""Plans: every row once, within budget, nearly without padding, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdpipe.batches import alternate, by_length, cut, epoch_plan

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=300).map(
    lambda x: np.array(x, np.int32)
)


@given(LENGTHS, st.integers(1, 2000))
def test_every_row_stands_in_one_batch_within_the_budget(lengths, budget):
    for plan in (
        by_length(lengths, budget),
        epoch_plan(np.arange(len(lengths)), lengths, budget, seed=3, epoch=1),
    ):
        assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths)))
        for batch in plan:
            assert len(batch) == 1 or lengths[batch].max() * len(batch) <= budget


def test_batches_are_as_large_as_the_budget_allows():
    lengths = np.array([1, 1, 1, 4, 4, 9], np.int32)
    plan = [batch.tolist() for batch in cut(np.arange(6), lengths, 8)]
    assert plan == [[0, 1, 2], [3, 4], [5]]


def test_epochs_differ_and_seeds_differ_and_nothing_else_does():
    lengths = np.random.default_rng(0).integers(1, 60, 5000).astype(np.int32)
    rows = np.arange(5000)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return [b.tolist() for b in epoch_plan(rows, lengths, 512, seed=seed, epoch=epoch)]

    assert plan(1, 0) == plan(1, 0)
    assert plan(1, 0) != plan(1, 1)
    assert plan(1, 0) != plan(2, 0)


def test_at_least_95_percent_of_a_batch_are_real_tokens():
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(3.0, 0.6, 20_000), 4, 128).astype(np.int32)
    plan = epoch_plan(np.arange(len(lengths)), lengths, 4096, seed=0, epoch=0)
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in plan)
    assert lengths.sum() / padded > 0.95


def test_batches_come_in_random_order_not_by_length():
    lengths = np.random.default_rng(0).integers(1, 100, 20_000).astype(np.int32)
    plan = epoch_plan(np.arange(len(lengths)), lengths, 1024, seed=0, epoch=0)
    means = np.array([lengths[batch].mean() for batch in plan])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.1


@pytest.mark.parametrize("rows", [np.array([], np.int64), np.array([7])])
def test_few_rows(rows):
    plan = epoch_plan(rows, np.full(10, 5, np.int32), 100, seed=0, epoch=0)
    assert [batch.tolist() for batch in plan] == ([[7]] if len(rows) else [])


def test_kinds_of_rows_take_turns_and_the_fewer_come_again_in_another_order():
    lengths = np.random.default_rng(0).integers(5, 20, 300).astype(np.int32)
    few, many = np.arange(0, 300, 10), np.setdiff1d(np.arange(300), np.arange(0, 300, 10))
    plan = [b.tolist() for b in alternate([few, many], lengths, 64, seed=3, epoch=1)]
    every = [b.tolist() for b in epoch_plan(many, lengths, 64, seed=3, epoch=1)]
    once = [b.tolist() for b in epoch_plan(few, lengths, 64, seed=3, epoch=1)]
    assert plan[1::2] == every
    assert plan[0::2][: len(once)] == once
    assert len(plan) == 2 * len(every) > 8 * len(once)
    order = [row for batch in plan[0::2] for row in batch]
    passes = [order[n : n + len(few)] for n in range(0, len(order), len(few))]
    assert all(sorted(one) == few.tolist() for one in passes[:-1])
    assert len({tuple(one) for one in passes}) == len(passes) > 4
    assert alternate([many], lengths, 64, seed=3, epoch=1)[0].tolist() == every[0]
    swapped = [b.tolist() for b in alternate([many, few], lengths, 64, seed=3, epoch=1)]
    assert swapped[0::2] == plan[1::2]
    assert swapped[1::2] == plan[0::2]


def test_the_first_time_is_that_of_seed_and_epoch():
    generator = np.random.Generator(np.random.PCG64([5, 2]))
    plan = epoch_plan(np.arange(50), np.full(50, 7, np.int32), 7, seed=5, epoch=2)
    order = generator.permutation(np.arange(50))
    wanted = [[int(order[n])] for n in generator.permutation(50)]
    assert [batch.tolist() for batch in plan] == wanted
