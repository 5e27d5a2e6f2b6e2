"""What must hold for every loss: padding, types, no wait for the device, compilation, names."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from kdpipe import losses
from kdpipe.losses import temperature
from tests.oracles import MASK, B, C, D, E, H, N, gen, lengthened

METHODS = Path(__file__).resolve().parents[1] / "docs" / "methods.md"


class Case(NamedTuple):
    """A loss of a student, a teacher and options, and what it is called with."""

    call: Callable[..., Tensor]
    student: Tensor
    teacher: Tensor
    axes: tuple[int, ...] = (1,)
    """Which axes are tokens."""
    reductions: tuple[str, ...] = ("token", "sequence")
    """Those that do not depend on padding."""


def _pair(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda s, t, **options: call((s, s.flip(-1)), (t, t.flip(-1)), **options)


def _three(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda s, t, **options: call(
        (s, s.flip(-1), s.roll(1, -1)), (t, t.flip(-1), t.roll(1, -1)), **options
    )


def _with(call: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda s, t, **options: call(s, t, **fixed, **options)


def _top_k(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    values, indices = teacher.topk(3)
    return losses.top_k_kl(student, values, indices, teacher.logsumexp(-1), **options)


def _scheduled(name: str, **fixed: Any) -> Callable[..., Tensor]:
    def call(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
        schedule = getattr(temperature, name)
        heat = schedule(student, teacher, temperature=3.0, **fixed, mask=options["mask"])
        return losses.kl_divergence(student, teacher, temperature=heat, **options)

    return call


def _shifted(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    labels = teacher.nan_to_num().argmin(-1)
    teacher = losses.probability_shift(teacher, labels, mask=options["mask"])
    return losses.kl_divergence(student, teacher, **options)


def _span(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    student, teacher = (losses.span_logits(x, mask) for x in (student, teacher))
    return losses.kl_divergence(student, teacher)


def _labels(call: Callable[..., Tensor], label: Callable[[Tensor], Tensor]) -> Any:
    return lambda s, t, **options: call(s, label(t.nan_to_num()), **options)


HIDDEN = gen(1, (B, N, D)), gen(2, (B, N, D))
LOGITS = gen(3, (B, N, C), 2), gen(4, (B, N, C), 2)
SCORES = gen(5, (B, H, N, N)), gen(6, (B, H, N, N))
WIDTHS = gen(7, (B, N, D)), gen(8, (B, N, E))
ROWS = gen(9, (B, N)), gen(10, (B, N))
CASES = {
    "hidden_mse": Case(losses.hidden_mse, *HIDDEN),
    "hidden_cosine": Case(losses.hidden_cosine, *HIDDEN),
    "fsp": Case(_pair(losses.fsp), *HIDDEN, reductions=()),
    "nst": Case(_pair(losses.nst), *WIDTHS),
    "soft_cross_entropy": Case(losses.soft_cross_entropy, *LOGITS),
    "kl_divergence": Case(losses.kl_divergence, *LOGITS),
    "reverse": Case(_with(losses.kl_divergence, direction="reverse"), *LOGITS),
    "jensen-shannon": Case(_with(losses.kl_divergence, direction="jensen-shannon"), *LOGITS),
    "logits_mse": Case(losses.logits_mse, *LOGITS),
    "binary_soft_cross_entropy": Case(losses.binary_soft_cross_entropy, *LOGITS),
    "dropout_penalty": Case(losses.dropout_penalty, *LOGITS),
    "span_logits": Case(_span, *ROWS, reductions=()),
    "cross_entropy": Case(_labels(losses.cross_entropy, lambda t: t.argmax(-1)), *LOGITS),
    "binary_cross_entropy": Case(_labels(losses.binary_cross_entropy, lambda t: t > 0), *LOGITS),
    "regression_mse": Case(losses.regression_mse, *ROWS),
    "top_k_kl": Case(_top_k, *LOGITS),
    "probability_shift": Case(_shifted, *LOGITS),
    "flsw": Case(_scheduled("flsw", beta=1.0, gamma=2.0), *LOGITS),
    "cwsm": Case(_scheduled("cwsm", beta=1.0), *LOGITS),
    "attention_mse": Case(losses.attention_mse, *SCORES, axes=(2, 3)),
    "attention_mse_sum": Case(losses.attention_mse_sum, *SCORES, axes=(2, 3)),
    "attention_ce": Case(losses.attention_ce, *SCORES, axes=(2, 3)),
    "attention_ce_mean": Case(losses.attention_ce_mean, *SCORES, axes=(2, 3)),
    "relation_kl": Case(_with(losses.relation_kl, heads=2), *WIDTHS),
    "minilm": Case(_three(_with(losses.minilm, heads=2)), *WIDTHS),
}
OTHERS = {"mse", "cosine", "similarity_structure", "pkd", "emd", "scores_of"}
OTHERS |= {"Direction", "Reduction", "layer_map", "temperature"}
EVERY = pytest.mark.parametrize("name", CASES)


def ways(name: str) -> list[dict[str, Any]]:
    """Options for all reductions of a case that do not count padding."""
    return [{"reduction": reduction} for reduction in CASES[name].reductions] or [{}]


def test_every_public_name_is_here() -> None:
    assert set(losses.__all__) == {*CASES, *OTHERS} - {"reverse", "jensen-shannon", "flsw", "cwsm"}
    for name in losses.__all__:
        assert getattr(losses, name) is not None


@EVERY
def test_padding_is_never_looked_at(name: str) -> None:
    """Two more places, and NaN at all that is padding: the same value and the same gradient."""
    case = CASES[name]
    mask = lengthened(MASK, 0, 1)
    for options in ways(name):
        student = case.student.clone().requires_grad_()
        value = case.call(student, case.teacher, mask=MASK, **options)
        longer = polluted(case.student, case.axes).requires_grad_()
        again = case.call(longer, polluted(case.teacher, case.axes), mask=mask, **options)
        assert again.item() == pytest.approx(value.item(), abs=1e-12)
        ((mine,), (other,)) = (
            torch.autograd.grad(loss, x) for loss, x in ((value, student), (again, longer))
        )
        before, after = real(student, case.axes, MASK), real(longer, case.axes, mask)
        assert mine[before].any()
        assert torch.allclose(other[after], mine[before], atol=1e-12)
        assert not other[~after].any()


def real(values: Tensor, axes: tuple[int, ...], mask: Tensor) -> Tensor:
    """Bool of the shape of values: True where the places on all of the axes are real tokens."""
    found = torch.ones_like(values, dtype=torch.bool)
    for axis in axes:
        shape = [1] * values.dim()
        shape[0], shape[axis] = mask.shape
        found = found & mask.view(shape)
    return found


def polluted(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    values = values.masked_fill(~real(values, axes, MASK), math.nan)
    return lengthened(values, math.nan, *axes)


@EVERY
def test_a_batch_of_padding_is_0_with_no_gradient(name: str) -> None:
    case = CASES[name]
    for options in ways(name):
        student = case.student.clone().requires_grad_()
        value = case.call(student, case.teacher, mask=torch.zeros_like(MASK), **options)
        value.backward()
        assert value.item() == 0.0
        assert not student.grad.any()


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_scalar_of_the_type_that_was_given(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    exact = case.call(case.student, case.teacher, mask=MASK)
    student = case.student.to(dtype, copy=True).requires_grad_()
    value = case.call(student, case.teacher.to(dtype), mask=MASK)
    value.backward()
    assert value.shape == ()
    assert value.dtype == student.grad.dtype == dtype
    assert student.grad.isfinite().all()
    close = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.02}
    assert value.item() == pytest.approx(exact.item(), rel=close[dtype])


@EVERY
def test_nothing_waits_for_the_device(name: str) -> None:
    """A tensor on `meta` has no values, so to ask for one is an error."""
    case = CASES[name]
    student = torch.empty_like(case.student, device="meta", requires_grad=True)
    teacher, mask = (torch.empty_like(x, device="meta") for x in (case.teacher, MASK))
    for options in ways(name):
        value = case.call(student, teacher, mask=mask, **options)
        value.backward()
        assert value.shape == ()
        assert value.device.type == "meta"


@pytest.mark.parametrize("loss", [losses.hidden_mse, losses.hidden_cosine, losses.kl_divergence])
def test_flat_values_wait_for_nothing_either(loss: Callable[..., Tensor]) -> None:
    teacher, lengths = torch.empty(8, D, device="meta"), torch.empty(2, device="meta").long()
    for call in (partial(loss, reduction="sequence"), losses.pkd):
        student = torch.empty(8, D, device="meta", requires_grad=True)
        value = call(student, teacher, lengths=lengths)
        value.backward()
        assert (value.shape, value.device.type) == ((), "meta")
        assert student.grad is not None
        assert student.grad.shape == student.shape


@EVERY
def test_it_compiles_as_one_graph(name: str) -> None:
    case = CASES[name]
    options = ways(name)[-1]
    torch.compiler.reset()
    compiled = torch.compile(case.call, fullgraph=True, backend="eager")
    student, again = (case.student.clone().requires_grad_() for _ in range(2))
    value = case.call(student, case.teacher, mask=MASK, **options)
    value.backward()
    found = compiled(again, case.teacher, mask=MASK, **options)
    found.backward()
    assert torch.equal(found, value)
    assert torch.equal(again.grad, student.grad)


def methods() -> list[list[str]]:
    """The rows of tables of the page about methods that name a function, as cells."""
    lines = METHODS.read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in rows if len(row) > 3 and re.fullmatch(r"`\w+`", row[-1])]


def test_the_documentation_names_every_function() -> None:
    functions = {
        name for name in losses.__all__ if isinstance(getattr(losses, name), types.FunctionType)
    }
    functions |= {"uniform", "tinybert", "constant", "flsw", "cwsm"}
    text = " ".join(" ".join(row) for row in methods())
    assert {name for name in functions if not re.search(rf"\b{name}\b", text)} == set()


@pytest.mark.parametrize("row", methods(), ids=lambda row: row[0].replace("`", ""))
def test_the_documentation_gives_values_that_are_tested(row: list[str]) -> None:
    test = Path(__file__).parent / f"test_losses_{row[-1].strip('`')}.py"
    source = test.read_text("utf-8").replace("_", "")
    if re.fullmatch(r"-?\d+\.\d{12}", row[-2]):
        assert row[-2] in source
    for name in re.findall(r"`(?:layer_map\.|temperature\.)?(\w+)\(", " ".join(row[1:-1])):
        assert name.replace("_", "") in source
