"""Layer maps against their published examples, and transport against all assignments."""

from __future__ import annotations

import itertools
import math
import sys

import pytest
import torch

from kdpipe import losses
from kdpipe.errors import UsageError
from kdpipe.losses import layer_map
from tests.oracles import LENGTHS, MASK, B, D, N, flat, gen, lengthened


@pytest.mark.parametrize(
    ("teacher", "student", "from_0"),
    [
        (12, 4, [2, 5, 8, 11]),
        (12, 3, [3, 7, 11]),
        (24, 6, [3, 7, 11, 15, 19, 23]),
        (12, 5, [2, 5, 7, 9, 11]),
        (6, 4, [1, 3, 4, 5]),
    ],
)
def test_uniform_as_published(teacher, student, from_0):
    """Published counting from 0 and without the embeddings."""
    found = layer_map.uniform(teacher, student)
    assert found == {mine: theirs + 1 for mine, theirs in enumerate(from_0, 1)}


def test_uniform_for_all_depths():
    for teacher, student in itertools.product(range(1, 30), range(1, 30)):
        found = layer_map.uniform(teacher, student)
        assert list(found) == list(range(1, student + 1))
        steps = [after - before for before, after in itertools.pairwise([0, *found.values()])]
        assert found[student] == teacher
        assert steps == sorted(steps, reverse=True)
        assert steps[0] - min(steps) <= 1
        if teacher % student == 0:
            assert {0: 0} | found == layer_map.tinybert(teacher, student)


def test_tinybert_as_published():
    assert layer_map.tinybert(12, 4) == {0: 0, 1: 3, 2: 6, 3: 9, 4: 12}
    with pytest.raises(UsageError) as error:
        layer_map.tinybert(12, 5)
    assert str(error.value) == (
        "a teacher of 12 layers does not divide into 5 equal steps: use the uniform map"
    )


@pytest.mark.parametrize("function", [layer_map.uniform, layer_map.tinybert])
def test_no_layers_are_refused(function):
    with pytest.raises(UsageError) as error:
        function(12, 0)
    assert str(error.value) == (
        "layers of a teacher of 12 and of a student of 0 cannot be matched: both need at least 1"
    )


def cheapest(costs: list[list[float]]) -> float:
    """Every layer cut into as many equal parts as make both sides equal; all assignments tried."""
    mine, theirs = len(costs), len(costs[0])
    parts = math.lcm(mine, theirs)
    left = [i for i in range(mine) for _ in range(parts // mine)]
    right = [j for j in range(theirs) for _ in range(parts // theirs)]
    return min(
        sum(costs[i][j] for i, j in zip(left, order, strict=True)) / parts
        for order in set(itertools.permutations(right))
    )


@pytest.mark.parametrize(("mine", "theirs"), [(1, 1), (1, 4), (2, 3), (3, 2), (2, 4), (4, 4)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_transport_is_the_cheapest(mine, theirs, scale):
    costs = gen(mine * 10 + theirs, (mine, theirs)).square() * scale
    flow = layer_map.transport(costs)
    assert flow.min().item() >= 0.0
    assert flow.sum(1).tolist() == pytest.approx([1 / mine] * mine, abs=1e-12)
    assert flow.sum(0).tolist() == pytest.approx([1 / theirs] * theirs, abs=1e-12)
    expected = cheapest(costs.tolist())
    assert (flow * costs).sum().item() == pytest.approx(expected, rel=1e-9)


STUDENT = [gen(seed, (B, N, D)) for seed in (1, 2)]
TEACHER = [gen(seed, (B, N, D)) for seed in (3, 4, 5)]


@pytest.mark.parametrize("reduction", ["token", "sequence", "all"])
def test_emd_moves_hidden_states(reduction):
    options = {"mask": MASK, "reduction": reduction}
    costs = [[losses.hidden_mse(s, t, **options).item() for t in TEACHER] for s in STUDENT]
    found = losses.emd(STUDENT, TEACHER, **options)
    assert found.item() == pytest.approx(cheapest(costs), abs=1e-12)
    if reduction != "all":
        rows = [flat(x) for x in STUDENT], [flat(x) for x in TEACHER]
        again = losses.emd(*rows, lengths=LENGTHS, reduction=reduction)
        assert again.item() == pytest.approx(found.item(), abs=1e-12)
        longer = ([lengthened(x, 9.0, 1) for x in layers] for layers in (STUDENT, TEACHER))
        again = losses.emd(*longer, mask=lengthened(MASK, 0, 1), reduction=reduction)
        assert again.item() == pytest.approx(found.item(), abs=1e-12)


def test_the_flow_has_no_gradient_and_the_costs_have():
    student = [layer.clone().requires_grad_() for layer in STUDENT]
    losses.emd(student, TEACHER).backward()
    costs = torch.stack([torch.stack([losses.hidden_mse(s, t) for t in TEACHER]) for s in STUDENT])
    flow = layer_map.transport(costs)
    again = [layer.clone().requires_grad_() for layer in STUDENT]
    sum(
        flow[i, j] * losses.hidden_mse(again[i], TEACHER[j]) for i in range(2) for j in range(3)
    ).backward()
    for one, other in zip(student, again, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-15)


def test_equal_layers_cost_nothing():
    found = losses.emd(TEACHER, TEACHER[::-1])
    assert found.item() == pytest.approx(0.0, abs=1e-12)


def test_costs_that_are_not_finite_make_the_loss_so():
    broken = [STUDENT[0], STUDENT[1] * math.nan]
    assert losses.emd(broken, TEACHER).isnan()
    flow = layer_map.transport(torch.tensor([[math.nan, 1.0], [1.0, math.inf]]))
    assert flow.tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_no_layers_for_emd_are_refused():
    with pytest.raises(UsageError) as error:
        losses.emd([], TEACHER)
    assert str(error.value) == (
        "the earth mover's distance needs a layer on either side: name some"
    )


def test_without_scipy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(UsageError) as error:
        losses.emd(STUDENT, TEACHER)
    assert str(error.value) == (
        "matching layers by earth mover's distance needs scipy: pip install 'kdpipe[emd]'"
    )
