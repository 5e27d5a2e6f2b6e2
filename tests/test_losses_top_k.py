"""The loss on the teacher's top k against the whole distribution."""

from __future__ import annotations

import math

import pytest
import torch

from kdpipe import losses
from kdpipe.errors import UsageError
from tests.oracles import LENGTHS, MASK, B, N, flat, gen

V = 11
STUDENT, TEACHER = gen(1, (B, N, V), 2), gen(2, (B, N, V), 2)


def kept(k: int, teacher: torch.Tensor = TEACHER) -> dict[str, torch.Tensor]:
    values, indices = teacher.topk(k)
    return {
        "values": values,
        "indices": indices,
        "log_normalizer": teacher.logsumexp(-1),
    }


def brute(student: list[float], teacher: list[float], k: int) -> float:
    """KL over the k most likely classes and one bucket for all others, of one place."""
    p, q = (
        [math.exp(x) / sum(math.exp(y) for y in row) for x in row] for row in (teacher, student)
    )
    order = sorted(range(len(p)), key=lambda i: -p[i])
    groups = [[i] for i in order[:k]] + ([order[k:]] if k < len(p) else [])
    total = 0.0
    for group in groups:
        a, b = sum(p[i] for i in group), sum(q[i] for i in group)
        total += a * math.log(a / b)
    return total


@pytest.mark.parametrize("k", [1, 4, 10, 11])
def test_kl_over_top_k_and_the_rest(k):
    each = [
        [brute(STUDENT[b, t].tolist(), TEACHER[b, t].tolist(), k) for t in range(N)]
        for b in range(B)
    ]
    rows = [each[0], each[1][:3]]
    expected = {
        "token": sum(map(sum, rows)) / 8,
        "sequence": (sum(rows[0]) / 5 + sum(rows[1]) / 3) / 2,
        "all": sum(map(sum, each)) / 10,
    }
    for reduction, value in expected.items():
        found = losses.top_k_kl(STUDENT, **kept(k), mask=MASK, reduction=reduction)
        assert found.item() == pytest.approx(value, abs=1e-12)
    few = {name: flat(value) for name, value in kept(k).items()}
    for reduction in ("token", "sequence"):
        found = losses.top_k_kl(flat(STUDENT), **few, lengths=LENGTHS, reduction=reduction)
        assert found.item() == pytest.approx(expected[reduction], abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_all_classes_give_the_whole_kl(temperature):
    options = {"temperature": temperature, "scale_by_temperature_squared": True, "mask": MASK}
    found = losses.top_k_kl(STUDENT, **kept(V), **options)
    expected = losses.kl_divergence(STUDENT, TEACHER, **options)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def test_more_classes_say_more_and_never_too_much():
    whole = losses.kl_divergence(STUDENT, TEACHER).item()
    found = [losses.top_k_kl(STUDENT, **kept(k)).item() for k in range(1, V + 1)]
    assert found == sorted(found)
    assert found[0] < found[-1] <= whole + 1e-12


def test_other_temperatures_are_over_the_top_k_alone():
    top = kept(4)
    mine = STUDENT.gather(-1, top["indices"])
    expected = losses.kl_divergence(mine, top["values"], temperature=3.0)
    found = losses.top_k_kl(STUDENT, **top, temperature=3.0)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def test_a_student_sure_of_the_top_is_told_of_the_rest():
    student = torch.tensor([[60.0, 0.0, 0.0, 0.0]], requires_grad=True)  # 1 - p is 0 in float32
    top = {"values": torch.zeros(1, 1), "indices": torch.tensor([[0]])}
    value = losses.top_k_kl(student, **top, log_normalizer=torch.tensor([math.log(4.0)]))
    (gradient,) = torch.autograd.grad(value, student)
    expected = 0.25 * math.log(0.25) + 0.75 * (math.log(0.75) + 60.0 - math.log(3.0))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert gradient[0].tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25], abs=1e-6)


def test_a_teacher_with_nothing_left_gives_a_finite_gradient():
    teacher = torch.tensor([[80.0, 79.0, -80.0, -80.0]])
    student = torch.zeros(1, 4, requires_grad=True)
    top = {"values": teacher[:, :2], "indices": torch.tensor([[0, 1]], dtype=torch.int32)}
    for normalizer in (teacher.logsumexp(-1), teacher.logsumexp(-1) - 1e-3):  # a sum above 1
        value = losses.top_k_kl(student, **top, log_normalizer=normalizer)
        value.backward()
        assert value.item() == pytest.approx(math.log(4.0) - 0.582203, abs=5e-3)
        assert student.grad.isfinite().all()


def test_a_teacher_with_nothing_left_does_not_mind_a_student_without_the_rest():
    teacher = torch.tensor([[80.0, 79.0, -80.0, -80.0]])
    student = torch.tensor([[3.0, 2.0, -math.inf, -math.inf]], requires_grad=True)
    value = losses.top_k_kl(student, **kept(2, teacher))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(0.0, abs=1e-5)
    assert gradient[0].tolist() == pytest.approx([0.0] * 4, abs=1e-5)


def test_classes_of_minus_infinity():
    teacher = TEACHER.clone()
    teacher[..., 3:] = -math.inf
    student = STUDENT.clone()
    student[..., 5] = -math.inf
    student.requires_grad_()
    value = losses.top_k_kl(student, **kept(6, teacher))  # three of the six are not there
    value.backward()
    expected = losses.kl_divergence(student, teacher)
    assert value.item() == pytest.approx(expected.item(), abs=1e-9)
    assert student.grad.isfinite().all()


def test_gradient_is_the_derivative():
    student = STUDENT.clone().requires_grad_()
    for temperature in (1.0, 2.0):
        options = {"temperature": temperature, "mask": MASK}
        assert torch.autograd.gradcheck(
            lambda x, o=options: losses.top_k_kl(x, **kept(3), **o), (student,)
        )


def test_shapes_that_do_not_fit_are_refused():
    top = kept(3)
    with pytest.raises(UsageError) as error:
        losses.top_k_kl(STUDENT, **(top | {"indices": top["indices"][:, :3]}))
    assert str(error.value) == (
        "top-k logits do not fit: student [2, 5, 11], values [2, 5, 3], indices [2, 3, 3]: one line"
        " of k values and k classes for each place"
    )
