"""Losses between logits, against published values and the definitions in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from kdpipe import losses
from kdpipe.errors import UsageError
from tests.oracles import CLOSE, LENGTHS, MASK, B, C, N, flat, gen

Z_S, Z_T = gen(1, (B, C), 2), gen(2, (B, C), 2)
Y_S, Y_T = gen(3, (B, N, C), 2), gen(4, (B, N, C), 2)
BY_ROW = torch.tensor([1.5, 3.0])
NA_S = torch.cat([gen(5, (5, 4), 2), gen(6, (3, 4), 2)])
NA_T = torch.cat([gen(7, (5, 4), 2), gen(8, (3, 4), 2)])
INF = math.inf


@pytest.mark.parametrize(
    ("temperature", "mse", "cross_entropy"),
    [
        (1.0, 9.030367822834, 4.269857627549),
        (4.0, 0.564397988927, 2.043232052449),
        (BY_ROW, 2.336403310072, 2.201150930120),
    ],
)
def test_textbrewer_rows(temperature, mse, cross_entropy):
    found = losses.logits_mse(Z_S, Z_T, temperature=temperature)
    assert found.item() == pytest.approx(mse, abs=CLOSE)
    found = losses.soft_cross_entropy(Z_S, Z_T, temperature=temperature)
    assert found.item() == pytest.approx(cross_entropy, abs=CLOSE)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({}, 4.165735855001),
        ({"temperature": 4.0}, 2.175468678638),
        ({"mask": MASK}, 4.215201890808),
        ({"mask": MASK, "reduction": "all"}, 4.165735855001),
    ],
)
def test_textbrewer_tokens(options, value):
    found = losses.soft_cross_entropy(Y_S, Y_T, **options)
    assert found.item() == pytest.approx(value, abs=CLOSE)


def test_tinybert_mean_over_classes():
    found = losses.soft_cross_entropy(gen(3, (2, 7), 2), gen(4, (2, 7), 2), mean_over_classes=True)
    assert found.item() == pytest.approx(0.743225675009, abs=CLOSE)


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 2.309534814484), (3.0, 2.656584973760)])
def test_nlp_architect_kl(temperature, value):
    options = {"temperature": temperature, "scale_by_temperature_squared": True}
    options |= {"lengths": LENGTHS, "reduction": "sequence"}
    found = 1.0 * 2.0 + 0.1 * losses.kl_divergence(NA_S, NA_T, **options)
    assert found.item() == pytest.approx(value, abs=CLOSE)


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(x / temperature) for x in logits]
    return [power / sum(powers) for power in powers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))


def definition(name: str, student: list[float], teacher: list[float], heat: float) -> float:
    """A loss of one place."""
    q, p = softmax(student, heat), softmax(teacher, heat)
    half = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    if name == "logits_mse":
        both = zip(student, teacher, strict=True)
        return sum((x / heat - y / heat) ** 2 for x, y in both) / len(p)
    if name == "binary_soft_cross_entropy":
        odds = [(1 / (1 + math.exp(-x / heat))) for x in student]
        goal = [(1 / (1 + math.exp(-x / heat))) for x in teacher]
        both = zip(goal, odds, strict=True)
        return -sum(t * math.log(s) + (1 - t) * math.log(1 - s) for t, s in both) / len(p)
    if name == "dropout_penalty":
        return sum((x - y) ** 2 for x, y in zip(student, teacher, strict=True)) / 2
    return {
        "soft_cross_entropy": -sum(x * math.log(y) for x, y in zip(p, q, strict=True)),
        "forward": kl(p, q),
        "reverse": kl(q, p),
        "jensen-shannon": (kl(p, half) + kl(q, half)) / 2,
    }[name]


NAMES = ["soft_cross_entropy", "forward", "reverse", "jensen-shannon", "logits_mse"]
NAMES += ["binary_soft_cross_entropy", "dropout_penalty"]


def call(name, student, teacher, **options):
    if name in ("forward", "reverse", "jensen-shannon"):
        return losses.kl_divergence(student, teacher, direction=name, **options)
    return getattr(losses, name)(student, teacher, **options)


@pytest.mark.parametrize("name", NAMES)
def test_definition_by_token_by_sequence_and_with_padding(name):
    each = [
        [definition(name, Y_S[b, t].tolist(), Y_T[b, t].tolist(), 1.0) for t in range(N)]
        for b in range(B)
    ]
    rows = [each[0], each[1][:3]]
    expected = {
        "token": sum(map(sum, rows)) / 8,
        "sequence": (sum(rows[0]) / 5 + sum(rows[1]) / 3) / 2,
        "all": sum(map(sum, each)) / 10,
    }
    for reduction, value in expected.items():
        found = call(name, Y_S, Y_T, mask=MASK, reduction=reduction)
        assert found.item() == pytest.approx(value, abs=1e-12)
    for reduction in ("token", "sequence"):
        found = call(name, flat(Y_S), flat(Y_T), lengths=LENGTHS, reduction=reduction)
        assert found.item() == pytest.approx(expected[reduction], abs=1e-12)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("name", NAMES[:-1])
def test_temperature_by_row_and_by_token(name, squared):
    heats = {
        "row": torch.tensor([0.5, 4.0]),
        "token": 1.0 + torch.arange(10, dtype=torch.float64).view(B, N) / 10,
        "one": torch.tensor(2.5),
    }
    if squared and name == "logits_mse":
        return  # the temperature would cancel
    for heat in heats.values():
        by_token = (heat[:, None] if heat.dim() == 1 else heat).expand(B, N)
        total = 0.0
        for b in range(B):
            for t in range(N):
                hot = by_token[b, t].item()
                value = definition(name, Y_S[b, t].tolist(), Y_T[b, t].tolist(), hot)
                total += value * (hot**2 if squared else 1.0)
        options = {"scale_by_temperature_squared": True} if squared else {}
        found = call(name, Y_S, Y_T, temperature=heat, **options)
        assert found.item() == pytest.approx(total / 10, abs=1e-10)


def test_temperature_squared_by_row_of_row_logits():
    wanted = sum(
        heat**2 * definition("forward", Z_S[b].tolist(), Z_T[b].tolist(), heat)
        for b, heat in enumerate(BY_ROW.tolist())
    )
    options = {"temperature": BY_ROW, "scale_by_temperature_squared": True}
    assert losses.kl_divergence(Z_S, Z_T, **options).item() == pytest.approx(wanted / 2, abs=1e-12)


def test_temperature_squared_keeps_the_gradient_of_logits_in_size():
    sizes = []
    for heat in (50.0, 100.0):
        student = Z_S.clone().requires_grad_()
        options = {"temperature": heat, "scale_by_temperature_squared": True}
        losses.kl_divergence(student, Z_T, **options).backward()
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


@pytest.mark.parametrize("name", ["forward", "reverse", "jensen-shannon", "logits_mse"])
def test_zero_with_zero_gradient_where_student_and_teacher_agree(name):
    student = Y_S.clone().requires_grad_()
    value = call(name, student, Y_S)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert student.grad.abs().max().item() < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_derivative(name):
    student = Y_S.clone().requires_grad_()
    options = {} if name == "dropout_penalty" else {"temperature": BY_ROW}
    assert torch.autograd.gradcheck(lambda x: call(name, x, Y_T, mask=MASK, **options), (student,))


def test_jensen_shannon_is_at_most_log_2():
    apart = torch.tensor([[1e4, -1e4]])
    found = call("jensen-shannon", apart, -apart)
    assert found.item() == pytest.approx(math.log(2.0), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_class_that_is_not_there_changes_nothing(name, temperature):
    student, teacher = Z_S.float(), Z_T.float()
    absent = torch.full((B, 1), -INF)
    more = torch.cat([student[:, :3], absent, student[:, 3:]], 1).requires_grad_()
    value = call(
        name, more, torch.cat([teacher[:, :3], absent, teacher[:, 3:]], 1), temperature=temperature
    )
    (gradient,) = torch.autograd.grad(value, more)
    expected = call(name, student, teacher, temperature=temperature).item()
    if name == "binary_soft_cross_entropy":  # the mean is over one label more, which costs nothing
        expected *= C / (C + 1)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert gradient.isfinite().all()
    assert torch.equal(gradient[:, 3], torch.zeros(B))


@pytest.mark.parametrize("name", NAMES[:-1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_no_class_at_all_is_not_nan(name, dtype):
    nothing = torch.full((1, 3), -INF, dtype=dtype).requires_grad_()
    value = call(name, nothing, nothing.detach())
    value.backward()
    assert value.isfinite()
    assert nothing.grad.isfinite().all()


def test_spans_are_softmaxes_over_the_real_places():
    start_s, start_t = gen(1, (B, N), 2), gen(2, (B, N), 2)
    student, teacher = (losses.span_logits(x, MASK) for x in (start_s, start_t))
    cut = [5, 3]
    expected = sum(
        kl(softmax(start_t[b, :n].tolist(), 2.0), softmax(start_s[b, :n].tolist(), 2.0))
        for b, n in enumerate(cut)
    )
    found = losses.kl_divergence(student, teacher, temperature=2.0)
    assert found.item() == pytest.approx(expected / 2, abs=1e-12)
    error = sum(
        sum((start_s[b, t] - start_t[b, t]).item() ** 2 for t in range(n)) / n
        for b, n in enumerate(cut)
    )
    assert losses.logits_mse(student, teacher).item() == pytest.approx(error / 2, abs=1e-12)
    gold = torch.tensor([4, 1])
    expected = -sum(
        math.log(softmax(start_s[b, :n].tolist(), 1.0)[gold[b]]) for b, n in enumerate(cut)
    )
    found = losses.cross_entropy(student, gold)
    assert found.item() == pytest.approx(expected / 2, abs=1e-12)
    with pytest.raises(UsageError, match=r"shape \[2, 3\], the loss is about places \[2, 5\]"):
        losses.span_logits(start_s, MASK[:, :3])


def test_a_teacher_that_excludes_what_the_student_says_leaves_the_gradient_finite():
    student = torch.zeros(1, 3, requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0, -INF]])
    value = losses.kl_divergence(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(math.log(1.5), rel=1e-5)
    assert gradient.tolist()[0] == pytest.approx([-1 / 6, -1 / 6, 1 / 3], abs=1e-6)


def test_half_types_come_back_as_they_went_in():
    exact = losses.kl_divergence(Y_S, Y_T).item()
    for dtype in (torch.float16, torch.bfloat16):
        found = losses.kl_divergence(Y_S.to(dtype), Y_T.to(dtype))
        assert found.dtype == dtype
        assert found.item() == pytest.approx(exact, rel=0.02)
