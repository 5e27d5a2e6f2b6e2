"""Losses between hidden states, against published values and nested loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from kdpipe import losses
from kdpipe.errors import UsageError
from kdpipe.losses import layer_map
from tests.oracles import CLOSE, LENGTHS, MASK, B, D, E, N, flat, gen

S, T, S2, T2 = (gen(seed, (B, N, D)) for seed in (7, 8, 9, 10))
WIDE, WIDE2 = gen(11, (B, N, E)), gen(12, (B, N, E))
STUDENT = [gen(60 + layer, (B, N, 24)) for layer in range(3)]
TEACHER = [gen(80 + layer, (B, N, 24)) for layer in range(7)]


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (losses.hidden_mse(S, T), 3.513287488787),
        (losses.hidden_mse(S, T, mask=MASK), 3.060201332910),
        (losses.hidden_cosine(S, T), 0.983947041055),
        (losses.hidden_cosine(S, T, mask=MASK), 0.881529843402),
        (losses.pkd(S, T), 2.970477538342),
        (losses.fsp((S, S2), (T, T2)), 1.272228957972),
        (losses.fsp((S, S2), (T, T2), mask=MASK), 2.012441009176),
        (losses.nst((S, S2), (WIDE, WIDE2)), 1.942299520869),
        (losses.nst((S, S2), (WIDE, WIDE2), mask=MASK), 2.232096192952),
    ],
)
def test_textbrewer(found, value):
    assert found.item() == pytest.approx(value, abs=CLOSE)


def test_tinybert_representations():
    pairs = layer_map.tinybert(6, 2)
    total = sum(
        losses.hidden_mse(STUDENT[mine], TEACHER[theirs], mask=MASK, reduction="all")
        for mine, theirs in pairs.items()
    )
    assert total.item() == pytest.approx(11.908091924059, abs=CLOSE)


def single(name: str, a: list[float], b: list[float]) -> float:
    """The loss of one token."""
    if name == "hidden_mse":
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return 1 - dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


@pytest.mark.parametrize("name", ["hidden_mse", "hidden_cosine"])
def test_token_losses_by_token_by_sequence_and_with_padding(name):
    each = [[single(name, S[b, t].tolist(), T[b, t].tolist()) for t in range(N)] for b in range(B)]
    rows = [each[0], each[1][:3]]
    expected = {
        "token": sum(map(sum, rows)) / 8,
        "sequence": (sum(rows[0]) / 5 + sum(rows[1]) / 3) / 2,
        "all": sum(map(sum, each)) / 10,
    }
    loss = getattr(losses, name)
    for reduction, value in expected.items():
        found = loss(S, T, mask=MASK, reduction=reduction)
        assert found.item() == pytest.approx(value, abs=1e-12)
    for reduction in ("token", "sequence"):
        found = loss(flat(S), flat(T), lengths=LENGTHS, reduction=reduction)
        assert found.item() == pytest.approx(expected[reduction], abs=1e-12)
    assert loss(flat(S), flat(T)).item() == pytest.approx(expected["token"], abs=1e-12)


def test_pkd_of_vectors_and_of_flat_values():
    expected = losses.pkd(S, T)
    assert torch.equal(losses.pkd(S[:, 0], T[:, 0]), expected)
    assert torch.equal(losses.pkd(flat(S), flat(T), lengths=LENGTHS), expected)


def product(first: torch.Tensor, second: torch.Tensor, real: int) -> list[list[float]]:
    """X^T Y / n over the first `real` tokens of one row."""
    return [
        [
            sum(first[t, i].item() * second[t, j].item() for t in range(real)) / real
            for j in range(second.shape[1])
        ]
        for i in range(first.shape[1])
    ]


def test_fsp_against_loops():
    total = 0.0
    for b, real in enumerate((5, 3)):
        mine, theirs = product(S[b], S2[b], real), product(T[b], T2[b], real)
        errors = [(mine[i][j] - theirs[i][j]) ** 2 for i in range(D) for j in range(D)]
        total += sum(errors) / len(errors)
    found = losses.fsp((S, S2), (T, T2), mask=MASK)
    assert found.item() == pytest.approx(total / 2, abs=1e-12)


@pytest.mark.parametrize("reduction", ["token", "sequence", "all"])
def test_nst_against_loops(reduction):
    rows = []
    for b, real in enumerate((5, 5) if reduction == "all" else (5, 3)):
        rows.append(
            [
                (S[b, i].dot(S2[b, j]).item() / D - WIDE[b, i].dot(WIDE2[b, j]).item() / E) ** 2
                for i in range(real)
                for j in range(real)
            ]
        )
    by_row = sum(sum(row) / len(row) for row in rows) / 2
    by_pair = sum(map(sum, rows)) / sum(map(len, rows))
    expected = by_row if reduction == "sequence" else by_pair
    found = losses.nst((S, S2), (WIDE, WIDE2), mask=MASK, reduction=reduction)
    assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", [losses.hidden_cosine, losses.pkd])
def test_a_zero_vector_gives_1_and_a_small_gradient(loss):
    student = torch.zeros(1, 3, requires_grad=True)
    value = loss(student, torch.tensor([[3.0, 0.0, 4.0]]))
    value.backward()
    assert value.item() == pytest.approx(1.0)
    assert student.grad.isfinite().all()
    assert student.grad.norm().item() <= 2.0 + 1e-6


@pytest.mark.parametrize("loss", [losses.hidden_mse, losses.hidden_cosine, losses.pkd])
def test_zero_with_zero_gradient_where_student_and_teacher_agree(loss):
    student = S.clone().requires_grad_()
    value = loss(student, S)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert student.grad.abs().max().item() < 1e-12


@pytest.mark.parametrize("reduction", ["token", "sequence", "all"])
def test_gradient_is_the_derivative(reduction):
    student, other = S.clone().requires_grad_(), S2.clone().requires_grad_()
    options = {"mask": MASK, "reduction": reduction}
    for loss in (losses.hidden_mse, losses.hidden_cosine):
        assert torch.autograd.gradcheck(lambda x, f=loss: f(x, T, **options), (student,))
    both = (student, other)
    assert torch.autograd.gradcheck(lambda x, y: losses.nst((x, y), (WIDE, WIDE2), **options), both)
    assert torch.autograd.gradcheck(lambda x, y: losses.fsp((x, y), (T, T2), mask=MASK), both)
    assert torch.autograd.gradcheck(lambda x: losses.pkd(x, T), (student,))


def test_different_widths_are_refused():
    with pytest.raises(UsageError, match=r"student has \[2, 5, 4\] and the teacher \[2, 5, 6\]"):
        losses.hidden_mse(S, WIDE)
    with pytest.raises(UsageError, match=r"student has \[2, 4, 4\] and the teacher \[2, 6, 6\]"):
        losses.fsp((S, S2), (WIDE, WIDE2))
