"""Losses between embeddings, against nested loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from kdpipe import losses


def vectors(seed: int, rows: int, width: int) -> torch.Tensor:
    return torch.randn(
        rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_mse():
    a, b = vectors(1, 5, 4), vectors(2, 5, 4)
    expected = sum((a[i, j] - b[i, j]).item() ** 2 for i in range(5) for j in range(4)) / 20
    assert losses.mse(a, b).item() == pytest.approx(expected, abs=1e-12)


def test_cosine():
    a, b = vectors(1, 5, 4), vectors(2, 5, 4)
    expected = sum(1 - cosine(a[i].tolist(), b[i].tolist()) for i in range(5)) / 5
    assert losses.cosine(a, b).item() == pytest.approx(expected, abs=1e-12)


def test_similarity_structure_over_pairs_of_different_rows_and_other_widths():
    a, b = vectors(1, 5, 4), vectors(2, 5, 7)
    total = 0.0
    for i in range(5):
        for j in range(5):
            if i != j:
                mine = cosine(a[i].tolist(), a[j].tolist())
                theirs = cosine(b[i].tolist(), b[j].tolist())
                total += (mine - theirs) ** 2
    assert losses.similarity_structure(a, b).item() == pytest.approx(total / 20, abs=1e-12)


def test_similarity_structure_of_one_row_is_zero_with_a_gradient():
    a = vectors(1, 1, 4).requires_grad_()
    loss = losses.similarity_structure(a, vectors(2, 1, 4))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(a.grad, torch.zeros_like(a))


LOSSES = [losses.mse, losses.cosine, losses.similarity_structure]


@pytest.mark.parametrize("loss", LOSSES)
def test_zero_with_zero_gradient_where_student_and_teacher_agree(loss):
    a = vectors(3, 6, 5).requires_grad_()
    value = loss(a, a.detach().clone())
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert a.grad.abs().max().item() < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_the_derivative(loss):
    a, b = vectors(3, 4, 3).requires_grad_(), vectors(4, 4, 3)
    assert torch.autograd.gradcheck(lambda x: loss(x, b), (a,))
