"""Losses against labels: torch's own where it has them, and plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from kdpipe import losses
from kdpipe.errors import UsageError
from tests.oracles import LENGTHS, MASK, B, C, N, flat, gen

LOGITS = gen(3, (B, N, C), 2)
GOLD = torch.tensor([[1, 2, -100, 0, 6], [0, -100, 5, 3, 4]])  # the last two are at padding
EACH = [
    [-LOGITS[b, t].log_softmax(0)[GOLD[b, t].clamp(min=0)].item() for t in range(N)]
    for b in range(B)
]
KEPT = [[EACH[0][t] for t in (0, 1, 3, 4)], [EACH[1][t] for t in (0, 2)]]


def test_cross_entropy_of_rows_is_torchs():
    gold = torch.tensor([6, 2])
    expected = functional.cross_entropy(LOGITS[:, 0], gold)
    found = losses.cross_entropy(LOGITS[:, 0], gold)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("token", sum(map(sum, KEPT)) / 6),
        ("sequence", (sum(KEPT[0]) / 4 + sum(KEPT[1]) / 2) / 2),
        ("all", (sum(map(sum, KEPT)) + EACH[1][3] + EACH[1][4]) / 8),
    ],
)
def test_cross_entropy_of_tokens(reduction, expected):
    found = losses.cross_entropy(LOGITS, GOLD, mask=MASK, reduction=reduction)
    assert found.item() == pytest.approx(expected, abs=1e-12)
    if reduction != "all":
        found = losses.cross_entropy(flat(LOGITS), flat(GOLD), lengths=LENGTHS, reduction=reduction)
        assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("by", ["row", "token"])
def test_weights_multiply_and_the_count_stays(by):
    weights = torch.tensor([0.5, 2.0]) if by == "row" else torch.arange(10.0).view(B, N)
    by_token = (weights[:, None] if by == "row" else weights).expand(B, N).tolist()
    counted = [(b, t) for b in range(B) for t in range(N) if GOLD[b, t] >= 0 and MASK[b, t]]
    expected = sum(by_token[b][t] * EACH[b][t] for b, t in counted) / 6
    found = losses.cross_entropy(LOGITS, GOLD, mask=MASK, weights=weights.double())
    assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("reduction", ["token", "sequence", "all"])
def test_without_any_label_it_is_0_with_no_gradient(reduction):
    logits = LOGITS.clone().requires_grad_()
    nothing = torch.full((B, N), -100)
    found = losses.cross_entropy(logits, nothing, mask=MASK, reduction=reduction)
    found = found + losses.binary_cross_entropy(
        logits, nothing[..., None].expand(B, N, C), mask=MASK, reduction=reduction
    )
    found = found + losses.regression_mse(
        logits[..., 0], torch.full((B, N), math.nan), mask=MASK, reduction=reduction
    )
    found.backward()
    assert found.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_class_that_does_not_exist_is_an_error():
    with pytest.raises(RuntimeError, match="out of bounds"):
        losses.cross_entropy(LOGITS[:, 0], torch.tensor([0, -1]))


def test_binary_cross_entropy_is_torchs_where_all_is_labelled():
    hot = (gen(9, (B, N, C)) > 0).long()
    expected = functional.binary_cross_entropy_with_logits(LOGITS, hot.double())
    found = losses.binary_cross_entropy(LOGITS, hot)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    expected = functional.binary_cross_entropy_with_logits(flat(LOGITS), flat(hot).double())
    found = losses.binary_cross_entropy(LOGITS, hot, mask=MASK)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def test_binary_cross_entropy_leaves_out_what_has_no_label():
    logits = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.1, 0.2], [1.0, 1.0, 1.0]])
    hot = torch.tensor([[1, 0, -100], [-100, -100, -100], [0, 1, 1]])

    def one(x: float, y: int) -> float:
        return math.log(1 + math.exp(-x if y else x))

    first = (one(1.0, 1) + one(-2.0, 0)) / 2
    last = (one(1.0, 0) + 2 * one(1.0, 1)) / 3
    found = losses.binary_cross_entropy(logits, hot)
    assert found.item() == pytest.approx((first + last) / 2, rel=1e-6)
    weights = torch.tensor([1.0, 7.0, 0.5])
    found = losses.binary_cross_entropy(logits, hot, weights=weights)
    assert found.item() == pytest.approx((first + last / 2) / 2, rel=1e-6)


def test_binary_cross_entropy_with_a_class_that_is_not_there():
    logits = torch.tensor([[1.0, -math.inf]], requires_grad=True)
    found = losses.binary_cross_entropy(logits, torch.tensor([[1, 0]]))
    found.backward()
    assert found.item() == pytest.approx(math.log(1 + math.exp(-1)) / 2)
    assert logits.grad.isfinite().all()


def test_regression():
    student, labels = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.5, math.nan, 3.0])
    student.requires_grad_()
    found = losses.regression_mse(student, labels)
    found.backward()
    assert found.item() == pytest.approx((0.25 + 4.0) / 2)
    assert student.grad.tolist() == pytest.approx([-0.5, 0.0, 2.0])
    weights = torch.tensor([2.0, 9.0, 0.0])
    found = losses.regression_mse(student, labels, weights=weights)
    assert found.item() == pytest.approx(0.25)
    whole = losses.regression_mse(torch.tensor([1.0, 2.0]), torch.tensor([0, 4]))
    assert whole.item() == pytest.approx(2.5)


def test_gradient_is_the_derivative():
    logits = LOGITS.clone().requires_grad_()
    hot = (gen(9, (B, N, C)) > 0).double()
    cases = (
        lambda x: losses.cross_entropy(x, GOLD, mask=MASK, reduction="sequence"),
        lambda x: losses.binary_cross_entropy(x, hot, mask=MASK),
        lambda x: losses.regression_mse(x[..., 0], hot[..., 0], mask=MASK),
    )
    for loss in cases:
        assert torch.autograd.gradcheck(loss, (logits,))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"student has \[2, 5\] and the teacher \[2\]"):
        losses.regression_mse(LOGITS[..., 0], torch.zeros(2))
    with pytest.raises(UsageError, match=r"of shape \[2, 5\], the loss is about places \[2\]"):
        losses.cross_entropy(LOGITS[:, 0], torch.tensor([0, 1]), mask=MASK)
