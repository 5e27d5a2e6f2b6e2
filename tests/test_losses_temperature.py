"""Temperatures and probability shift, against published values and plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from kdpipe import losses
from kdpipe.errors import UsageError
from kdpipe.losses import temperature
from tests.oracles import CLOSE, MASK, B, C, N, gen

Z_S, Z_T = gen(1, (B, C), 2), gen(2, (B, C), 2)
Y_S, Y_T = gen(3, (B, N, C), 2), gen(4, (B, N, C), 2)
WEIGHTS = torch.arange(1, C + 1)


def test_textbrewer_schedules():
    found = temperature.flsw(Z_S, Z_T, temperature=4.0, beta=1.0, gamma=2.0)
    assert found.tolist() == pytest.approx([4.160135548398, 3.839864451602], abs=CLOSE)
    found = temperature.cwsm(Z_S, Z_T, temperature=4.0, beta=1.0)
    assert found.tolist() == pytest.approx([4.653966692956, 3.346033307044], abs=CLOSE)


def test_constant():
    found = temperature.constant(Y_S, Y_T, temperature=4.0)
    assert torch.equal(found, torch.full((B, N), 4.0, dtype=torch.float64))


def weight(name: str, student: list[float], teacher: list[float]) -> float:
    """What the temperature of one token is lowered by."""
    if name == "cwsm":
        powers = [math.exp(x) for x in student]
        return 1 / (max(powers) / sum(powers) + 1e-3)
    a, b = math.hypot(*student) + 1e-4, math.hypot(*teacher) + 1e-4
    return math.pow(1 - sum(x * y for x, y in zip(student, teacher, strict=True)) / (a * b), 1.5)


@pytest.mark.parametrize("name", ["flsw", "cwsm"])
def test_the_mean_is_over_real_tokens(name):
    each = [
        [weight(name, Y_S[b, t].tolist(), Y_T[b, t].tolist()) for t in range(N)] for b in range(B)
    ]
    middle = (sum(each[0]) + sum(each[1][:3])) / 8
    options = {"temperature": 6.0, "beta": 0.7} | ({"gamma": 1.5} if name == "flsw" else {})
    found = getattr(temperature, name)(Y_S, Y_T, mask=MASK, **options)
    for b, t in MASK.nonzero().tolist():
        assert found[b, t].item() == pytest.approx(6 + 0.7 * (middle - each[b][t]), abs=1e-12)


@pytest.mark.parametrize("name", ["flsw", "cwsm"])
def test_a_large_beta_stops_above_zero(name):
    options = {"temperature": 4.0, "beta": 1e6} | ({"gamma": 2.0} if name == "flsw" else {})
    student = Y_S.clone().requires_grad_()
    found = getattr(temperature, name)(student, Y_T, **options)
    assert found.min().item() == temperature.LOWEST == 0.1
    assert not found.requires_grad
    found = getattr(temperature, name)(Y_S, Y_T, lowest=2.0, **options)
    assert found.min().item() == 2.0
    loss = losses.kl_divergence(student, Y_T, temperature=found)
    loss.backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", ["flsw", "cwsm"])
def test_zero_vectors_equal_vectors_and_absent_classes(name):
    options = {"temperature": 4.0, "beta": 1.0} | ({"gamma": 0.5} if name == "flsw" else {})
    function = getattr(temperature, name)
    zero = torch.zeros(3, 4)
    assert function(zero, zero, **options).tolist() == [4.0] * 3
    assert function(zero[:0], zero[:0], **options).shape == (0,)
    assert function(Z_S.float(), Z_S.float(), **options).isfinite().all()
    absent = torch.full((B, 1), -math.inf)
    found = function(torch.cat([Z_S, absent], 1), torch.cat([Z_T, absent], 1), **options)
    assert torch.allclose(found, function(Z_S, Z_T, **options), atol=1e-12)


def test_a_cosine_that_rounds_to_more_than_1_gives_no_nan():
    large = gen(1, (200, 5)).float() * 1e6
    unit = large / (large.norm(dim=1, keepdim=True) + 1e-4)
    assert unit.square().sum(1).max().item() > 1.0
    found = temperature.flsw(large, large, temperature=4.0, beta=1.0, gamma=0.5)
    assert found.isfinite().all()


def test_probability_shift_of_textbrewer():
    shifted = losses.probability_shift(Z_T, torch.tensor([3, 0]))
    assert (shifted * WEIGHTS).sum().item() == pytest.approx(-50.463783603406, abs=CLOSE)
    labels = torch.tensor([[1, 2, -100, 0, 6], [0, -100, 5, -100, -100]])
    shifted = losses.probability_shift(Y_T, labels)
    assert (shifted * WEIGHTS).sum().item() == pytest.approx(20.495819341417, abs=CLOSE)


def test_probability_shift_exchanges_and_keeps_the_original():
    before = Y_T.clone()
    labels = torch.tensor([[1, 2, -100, 0, 6], [0, -1, 5, 3, 4]])
    shifted = losses.probability_shift(Y_T, labels, mask=MASK)
    assert torch.equal(Y_T, before)
    for b in range(B):
        for t in range(N):
            row = before[b, t].tolist()
            gold = int(labels[b, t])
            if gold >= 0 and MASK[b, t]:
                top = row.index(max(row))
                row[top], row[gold] = row[gold], row[top]
            assert shifted[b, t].tolist() == row
    known = MASK & (labels >= 0)
    assert torch.equal(shifted.argmax(-1)[known], labels[known])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"of shape \[2, 5\], the loss is about places \[2\]"):
        losses.probability_shift(Z_T, torch.tensor([0, 1]), mask=MASK)
    with pytest.raises(UsageError, match="needs equal shapes"):
        temperature.cwsm(Z_S, Y_S, temperature=1.0, beta=1.0)
