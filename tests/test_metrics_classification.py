"""Scores of classifiers against scikit-learn, and at the edges where it warns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from kdpipe import metrics

Generator = np.random.Generator

LABELS = st.lists(st.tuples(st.integers(-2, 4), st.integers(-2, 4)), min_size=1, max_size=30)
SETS = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.tuples(*[st.lists(st.booleans(), min_size=width, max_size=width)] * 2), min_size=1
    )
)


def generator(seed: int = 0) -> Generator:
    return np.random.Generator(np.random.PCG64(seed))


@settings(deadline=None)
@given(LABELS)
def test_single_labels_score_as_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    mine, gold = np.array(pairs).T
    reference = sklearn.metrics.f1_score
    assert metrics.accuracy(mine, gold) == sklearn.metrics.accuracy_score(gold, mine)
    for ours, name in ((metrics.macro_f1, "macro"), (metrics.micro_f1, "micro")):
        expected = reference(gold, mine, average=name, zero_division=0)
        assert ours(mine, gold) == pytest.approx(expected, abs=1e-12)
    expected = reference(gold, mine, labels=[1], average="macro", zero_division=0)
    assert metrics.binary_f1(mine, gold) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(LABELS)
def test_matthews_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    mine, gold = np.array(pairs).T
    found = metrics.matthews(mine, gold)
    if len({*mine}) == 1 or len({*gold}) == 1:
        assert found == 0.0
    else:
        expected = sklearn.metrics.matthews_corrcoef(gold, mine)
        assert found == pytest.approx(expected, abs=1e-12)
        assert -1.0 <= found <= 1.0


@settings(deadline=None)
@given(SETS)
def test_multi_label_scores_as_with_scikit_learn(
    pairs: list[tuple[list[bool], list[bool]]],
) -> None:
    mine, gold = np.array(pairs).transpose(1, 0, 2)
    # scikit-learn takes one column for one class of two, so it gets an empty one beside it.
    both = [np.pad(side, ((0, 0), (0, 1))).astype(int) for side in (gold, mine)]
    width = mine.shape[1]
    f1 = sklearn.metrics.f1_score(*both, average=None, zero_division=0)[:width]
    micro = sklearn.metrics.f1_score(*both, average="micro", zero_division=0)
    assert metrics.macro_f1(mine, gold) == pytest.approx(f1.mean(), abs=1e-12)
    assert metrics.micro_f1(mine, gold) == pytest.approx(micro, abs=1e-12)
    assert metrics.accuracy(mine, gold) == sklearn.metrics.accuracy_score(*both)


def test_scores_of_a_case_by_hand() -> None:
    mine, gold = [0, 0, 1, 2, 2], [0, 1, 1, 2, 0]
    assert metrics.accuracy(mine, gold) == metrics.micro_f1(mine, gold) == 3 / 5
    assert metrics.macro_f1(mine, gold) == pytest.approx((2 / 4 + 2 / 3 + 2 / 3) / 3, abs=1e-15)
    assert metrics.binary_f1(mine, gold) == 2 / 3
    assert metrics.binary_f1(mine, gold, positive=0) == 2 / 4
    assert metrics.binary_f1(mine, gold, positive=7) == 0.0


def test_multi_label_by_hand() -> None:
    mine = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], bool)
    gold = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]], bool)
    assert metrics.accuracy(mine, gold) == 1 / 3
    assert metrics.micro_f1(mine, gold) == 2 * 2 / (3 + 3)
    # The third class is nowhere, and still one of three.
    assert metrics.macro_f1(mine, gold) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3, abs=1e-15)


def test_a_class_that_is_only_predicted_lowers_the_macro_f1() -> None:
    assert metrics.macro_f1([0, 0, 9], [0, 0, 0]) == pytest.approx((4 / 5 + 0) / 2, abs=1e-15)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, np.bool_])
def test_the_integers_may_be_of_any_kind(kind: Any) -> None:
    mine, gold = generator().integers(0, 2, (2, 400))
    for function in (metrics.accuracy, metrics.macro_f1, metrics.binary_f1, metrics.matthews):
        assert function(mine.astype(kind), gold.astype(kind)) == function(mine, gold)


def test_matthews_of_two_classes_is_the_phi_coefficient() -> None:
    mine, gold = generator(1).integers(0, 2, (2, 300))
    mine[:100] = gold[:100]
    assert metrics.matthews(mine, gold) == pytest.approx(metrics.pearson(mine, gold), abs=1e-12)
    assert metrics.matthews(1 - gold, gold) == -1.0


def test_matthews_of_many_rows_is_exact() -> None:
    # Products of the variances of 300 000 rows are beyond 64 bits.
    gold = np.arange(300_000) % 3
    mine = np.where(np.arange(300_000) % 2, gold, (gold + 1) % 3)
    assert metrics.matthews(gold, gold) == 1.0
    # Half is right and the marginals are even, so (1/2 - 1/3) / (1 - 1/3).
    assert metrics.matthews(mine, gold) == pytest.approx(0.25, abs=1e-12)


@pytest.mark.parametrize(
    "function", [metrics.accuracy, metrics.macro_f1, metrics.micro_f1, metrics.matthews]
)
def test_no_rows_score_zero(function: Any) -> None:
    assert function([], []) == 0.0


def test_no_multi_labels_score_zero() -> None:
    none = np.zeros((3, 2), bool)
    assert metrics.accuracy(none[:0], none[:0]) == 0.0
    assert metrics.macro_f1(none[:0], none[:0]) == metrics.micro_f1(none[:0], none[:0]) == 0.0
    assert metrics.macro_f1(none[:, :0], none[:, :0]) == 0.0
    assert metrics.macro_f1(none, none) == metrics.micro_f1(none, none) == 0.0
    assert metrics.accuracy(none, none) == 1.0
    assert metrics.binary_f1([], []) == metrics.binary_f1([0, 0], [0, 0]) == 0.0


def test_agreement_by_its_definition() -> None:
    teacher = generator(2).standard_normal((200, 5))
    student = teacher + generator(3).standard_normal((200, 5))
    rows = [[*mine].index(max(mine)) == [*his].index(max(his)) for mine, his in zip(
        student, teacher, strict=True)]  # fmt: skip
    assert metrics.agreement(student, teacher) == np.mean(rows)
    assert 0.2 < metrics.agreement(student, teacher) < 0.9
    assert metrics.agreement(3 * teacher - 1, teacher) == 1.0


def test_agreement_of_equal_scores_and_of_nothing() -> None:
    assert metrics.agreement([[1.0, 1.0], [1.0, 1.0]], [[2.0, 2.0], [0.0, 2.0]]) == 0.5
    assert metrics.agreement(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0


@pytest.mark.parametrize(
    ("function", "mine", "gold"),
    [
        (metrics.accuracy, [1, 2], [1, 2, 3]),
        (metrics.accuracy, [0.5, 1.0], [0, 1]),
        (metrics.accuracy, [[0, 1]], [[0, 1]]),  # a row of word tags is no set of labels
        (metrics.macro_f1, [[0.2, 0.7]], [[False, True]]),
        (metrics.micro_f1, [[[True]]], [[[True]]]),
        (metrics.binary_f1, [[True]], [[True]]),
        (metrics.matthews, [[True]], [[True]]),
        (metrics.agreement, [1.0, 2.0], [1.0, 2.0]),
        (metrics.agreement, [[1.0, 2.0]], [[1.0, 2.0, 3.0]]),
    ],
)
def test_wrong_shapes_and_kinds_are_refused(function: Any, mine: Any, gold: Any) -> None:
    with pytest.raises(AssertionError):
        function(mine, gold)
