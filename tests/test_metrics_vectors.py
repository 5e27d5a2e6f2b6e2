"""Likeness of numbers and spaces against scipy and against loops that spell the definitions out."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats

from kdpipe import metrics
from kdpipe.metrics import vectors as module

Array = npt.NDArray[np.float64]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b)))


def nearest(vectors: Array, row: int, k: int) -> set[int]:
    """By the definition: sorted by cosine, the first of equals first, without the row itself."""
    others = [other for other in range(len(vectors)) if other != row]
    return set(sorted(others, key=lambda other: -cosine(vectors[row], vectors[other]))[:k])


@pytest.mark.parametrize("seed", range(3))
def test_correlations_are_those_of_scipy(seed: int) -> None:
    a, noise = random(2, 50, seed=seed)
    b = a**3 + 0.3 * noise
    assert metrics.pearson(a, b) == pytest.approx(scipy.stats.pearsonr(a, b).statistic, abs=1e-12)
    assert metrics.spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
    assert metrics.spearman(a, b) != pytest.approx(metrics.pearson(a, b), abs=1e-5)


def test_spearman_of_ties_is_that_of_scipy() -> None:
    a = [1, 2, 2, 3, 3, 3, 0, 5]
    b = [2.5, 2.5, 1.0, 7.0, 1.0, 2.5, 0.5, 3.0]
    assert metrics.spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)


@pytest.mark.parametrize("function", [metrics.pearson, metrics.spearman])
def test_a_constant_side_gives_zero(function: Any) -> None:
    # The mean of three 0.1 is not 0.1 in binary: what rounding leaves must not count as variation.
    assert function([0.1, 0.1, 0.1], [1.0, 1 / 2, 1 / 3]) == 0.0
    assert function([1.0, 2.0, 3.0], [7.0, 7.0, 7.0]) == 0.0
    assert function([], []) == 0.0


def test_correlations_reach_one_and_no_more() -> None:
    a = random(101)
    assert metrics.pearson(a, 3 * a + 1) == pytest.approx(1.0, abs=1e-15)
    assert metrics.pearson(a, -a) == pytest.approx(-1.0, abs=1e-15)
    assert abs(metrics.pearson(a, 0.1 * a)) <= 1.0
    assert metrics.spearman(a, np.exp(a)) == pytest.approx(1.0, abs=1e-15)


def test_cosine_of_rows() -> None:
    a, b = random(7, 5), random(7, 5, seed=1)
    a[3] = 0.0
    expected = [0.0 if row == 3 else cosine(a[row], b[row]) for row in range(7)]
    assert metrics.cosine_rows(a, b) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_neighbour_recall_by_its_definition(k: int) -> None:
    teacher = random(40, 6)
    student = np.concatenate([teacher[:, :4], random(40, 3, seed=1)], axis=1)
    shares = [
        len(nearest(teacher, row, k) & nearest(student, row, k)) / k for row in range(len(teacher))
    ]
    found = metrics.neighbour_recall(student, teacher, k)
    assert found == pytest.approx(np.mean(shares), abs=1e-12)
    assert 0.1 < found < 0.9


def test_neighbour_recall_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student = random(50, 6), random(50, 4, seed=1)
    whole = metrics.neighbour_recall(student, teacher)
    monkeypatch.setattr(module, "_CHUNK", 50 * 7)
    assert metrics.neighbour_recall(student, teacher) == whole


def test_neighbour_recall_of_equal_spaces_is_one() -> None:
    teacher = random(30, 4)
    teacher[20:] = teacher[:10]
    assert metrics.neighbour_recall(teacher, teacher) == 1.0
    # A power of two changes no rounding: which of two equal rows is nearer depends on that.
    assert metrics.neighbour_recall(-4.0 * teacher, teacher) == 1.0


def test_a_collapsed_student_has_not_found_the_neighbours() -> None:
    teacher = random(200, 8)
    assert metrics.neighbour_recall(np.ones((200, 3)), teacher) < 0.1


def test_neighbour_recall_of_few_rows() -> None:
    teacher, student = random(4, 3), random(4, 3, seed=1)
    assert metrics.neighbour_recall(student, teacher) == 1.0
    assert metrics.neighbour_recall(student[:1], teacher[:1]) == 0.0
    assert metrics.neighbour_recall(student[:0], teacher[:0]) == 0.0


def test_neighbour_recall_never_holds_all_pairs() -> None:
    vectors = random(6000, 4).astype(np.float32)
    tracemalloc.start()
    metrics.neighbour_recall(vectors, vectors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000 * 6000


def test_pair_spearman_of_all_pairs() -> None:
    teacher, student = random(12, 5), random(12, 3, seed=1)
    pairs = [(left, right) for left in range(12) for right in range(left)]
    expected = scipy.stats.spearmanr(
        [cosine(student[left], student[right]) for left, right in pairs],
        [cosine(teacher[left], teacher[right]) for left, right in pairs],
    ).statistic
    assert metrics.pair_spearman(student, teacher, pairs=66) == pytest.approx(expected, abs=1e-12)
    assert metrics.pair_spearman(student, teacher, pairs=65) != pytest.approx(expected, abs=1e-6)


def test_pair_spearman_of_drawn_pairs() -> None:
    teacher = random(300, 16)
    student = teacher[:, :10]
    whole = metrics.pair_spearman(student, teacher, pairs=300 * 299)
    drawn = [metrics.pair_spearman(student, teacher, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn == pytest.approx([whole] * 3, abs=0.02)
    assert metrics.pair_spearman(-2.0 * teacher, teacher) == pytest.approx(1.0, abs=1e-12)


def test_drawn_pairs_are_of_different_rows() -> None:
    left, right = module._pairs(250, 20_000, 3)
    assert len(left) == len(right) == 20_000
    assert not np.any(left == right)
    assert set(left.tolist()) == set(right.tolist()) == set(range(250))


def test_pair_spearman_of_a_collapsed_student_is_zero() -> None:
    teacher = random(20, 8)
    assert metrics.pair_spearman(np.ones((20, 4)), teacher) == 0.0
    assert metrics.pair_spearman(teacher[:1], teacher[:1]) == 0.0
