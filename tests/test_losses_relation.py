"""Losses between relations, against published values and nested loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from kdpipe import losses
from kdpipe.errors import UsageError
from tests.oracles import CLOSE, MASK, B, N, gen

HEADS = 4
X_S, X_T = gen(1, (B, N, 12)), gen(2, (B, N, 24))
QKV_S = tuple(gen(seed, (B, N, 12)) for seed in (3, 4, 5))
QKV_T = tuple(gen(seed, (B, N, 24)) for seed in (6, 7, 8))


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"mask": MASK, "reduction": "sequence"}, 0.389241415739),  # Bloomberg
        ({"mask": MASK, "reduction": "all"}, 0.625133037899),  # fschlatt
        ({"mask": MASK}, 0.443491691398),
        ({"mask": torch.ones_like(MASK), "reduction": "sequence"}, 0.512841173178),
        ({"mask": torch.ones_like(MASK), "reduction": "all"}, 0.512841173178),
        ({}, 0.512841173178),
    ],
)
def test_minilm_v2(options, value):
    found = losses.relation_kl(X_S, X_T, heads=HEADS, **options)
    assert found.item() == pytest.approx(value, abs=CLOSE)


def relation(pair, i: int, head: int, heads: int) -> list[float]:
    """The softmax of token i of a row over the tokens of the row."""
    one, other = pair
    size = one.shape[1] // heads
    part = slice(head * size, head * size + size)
    scores = [one[i, part].dot(other[j, part]).item() for j in range(len(other))]
    powers = [math.exp(score / math.sqrt(size)) for score in scores]
    return [power / sum(powers) for power in powers]


def brute(student, teacher, heads: int, reduction: str) -> float:
    """Rows cut to their real tokens, one at a time."""
    rows = []
    for b, real in enumerate((5, 3)):
        rows.append([])
        for i in range(real):
            total = 0.0
            for head in range(heads):
                q = relation([x[b, :real] for x in student], i, head, heads)
                p = relation([x[b, :real] for x in teacher], i, head, heads)
                total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
            rows[-1].append(total / heads)
    if reduction == "sequence":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    return sum(map(sum, rows)) / sum(map(len, rows))


@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize("heads", [1, 3, 12])
@pytest.mark.parametrize("pair", [(0, 0), (0, 1), (1, 0), (2, 1), (2, 2)])
def test_any_pair_with_any_number_of_heads(pair, heads, reduction):
    student, teacher = (tuple(qkv[x] for x in pair) for qkv in (QKV_S, QKV_T))
    found = losses.relation_kl(student, teacher, heads=heads, mask=MASK, reduction=reduction)
    expected = brute(student, teacher, heads, reduction)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_one_tensor_is_related_to_itself():
    both = losses.relation_kl((X_S, X_S), (X_T, X_T), heads=HEADS, mask=MASK)
    assert torch.equal(losses.relation_kl(X_S, X_T, heads=HEADS, mask=MASK), both)


@pytest.mark.parametrize("reduction", ["token", "sequence", "all"])
def test_minilm_is_attention_and_values(reduction):
    options = {"heads": HEADS, "mask": MASK, "reduction": reduction}
    found = losses.minilm(QKV_S, QKV_T, **options)
    attention = losses.relation_kl(QKV_S[:2], QKV_T[:2], **options)
    values = losses.relation_kl(QKV_S[2], QKV_T[2], **options)
    assert found.item() == pytest.approx((attention + values).item(), abs=1e-12)
    if reduction != "all":
        expected = brute(QKV_S[:2], QKV_T[:2], HEADS, reduction)
        expected += brute((QKV_S[2],) * 2, (QKV_T[2],) * 2, HEADS, reduction)
        assert found.item() == pytest.approx(expected, abs=1e-12)


def test_attention_cross_entropy_is_relation_kl_and_the_teachers_entropy():
    """Two ways to one gradient, through different functions."""
    student = gen(9, (B, N, 24)).requires_grad_()
    mine = losses.scores_of(student, student, HEADS)
    theirs = losses.scores_of(X_T, X_T, HEADS)
    entropy = losses.attention_ce(theirs, theirs, mask=MASK)
    one = losses.attention_ce(mine, theirs, mask=MASK) - entropy
    other = losses.relation_kl(student, X_T, heads=HEADS, mask=MASK)
    assert one.item() == pytest.approx(other.item(), abs=1e-12)
    (first,) = torch.autograd.grad(one, student)
    (second,) = torch.autograd.grad(other, student)
    assert torch.allclose(first, second, atol=1e-12)


@pytest.mark.parametrize("reduction", ["token", "sequence", "all"])
def test_gradient_is_the_derivative(reduction):
    student, other = X_S.clone().requires_grad_(), QKV_S[0].clone().requires_grad_()
    options = {"heads": HEADS, "mask": MASK, "reduction": reduction}
    assert torch.autograd.gradcheck(lambda x: losses.relation_kl(x, X_T, **options), (student,))
    assert torch.autograd.gradcheck(
        lambda x, y: losses.relation_kl((x, y), QKV_T[:2], **options), (student, other)
    )


def test_zero_with_zero_gradient_where_student_and_teacher_agree():
    student = X_S.clone().requires_grad_()
    value = losses.relation_kl(student, X_S, heads=HEADS, mask=MASK)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert student.grad.abs().max().item() < 1e-12


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="a width of 12 does not divide into 5 heads"):
        losses.relation_kl(X_S, X_T, heads=5)
    with pytest.raises(UsageError, match=r"student has \[2, 4, 5, 5\] and the teacher \[2, 4, 3"):
        losses.relation_kl(X_S, X_T[:, :3], heads=HEADS)
