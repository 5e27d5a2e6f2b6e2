"""Temperatures that depend on the logits, and shifted targets.

Legend: B rows, T places of the longest row, N tokens, C classes. Logits are `[B, C]`, `[N, C]`, or
`[B, T, C]` with `mask [B, T]`. A temperature is a tensor without the last axis, for the argument
`temperature` of a loss; it has no gradient. A logit of -inf is a class that is not there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdpipe.losses.logits import log_probabilities
from kdpipe.losses.reduce import blank, check_places, check_same, mean, wide

LOWEST = 0.1
"""What no temperature goes below: under 0 the loss would push the student away."""


def constant(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """The same temperature everywhere."""
    check_same(student, teacher)
    return wide(student[..., 0].detach()).new_full(student.shape[:-1], temperature)


@torch.no_grad()
def flsw(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    beta: float,
    gamma: float,
    mask: Tensor | None = None,
    lowest: float = LOWEST,
) -> Tensor:
    """Lower where student and teacher disagree: T + beta (mean(w) - w), w = (1 - cosine)^gamma.

    Focal loss style weights (Wen et al., arXiv 1911.07471; TextBrewer's `flsw`); the mean is over
    the real places of the batch.
    """
    check_same(student, teacher)
    mine, theirs = _almost_unit(blank(student, mask)), _almost_unit(blank(teacher, mask))
    # A cosine beyond 1 by rounding would make a power NaN.
    weight = (1.0 - (mine * theirs).sum(-1)).clamp(min=0.0) ** gamma
    return _around(weight, temperature, beta, mask, lowest)


@torch.no_grad()
def cwsm(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    beta: float,
    mask: Tensor | None = None,
    lowest: float = LOWEST,
) -> Tensor:
    """Lower where the student is unsure: T + beta (mean(w) - w), w = 1 / (max softmax + 0.001).

    Confidence weights by the student's maximum (Wen et al., arXiv 1911.07471; TextBrewer's `cwsm`);
    the mean is over the real places of the batch.
    """
    check_same(student, teacher)
    weight = 1.0 / (log_probabilities(blank(student, mask)).amax(-1).exp() + 1e-3)
    return _around(weight, temperature, beta, mask, lowest)


def probability_shift(teacher: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """A copy of the teacher's logits with the largest and the gold class's exchanged.

    Wen et al., arXiv 1911.07471. Logits `[..., C]` and class ids `[...]`; where the label is
    negative or `mask` says padding nothing is exchanged.
    """
    check_places(teacher[..., 0], mask, None)
    shifts = labels >= 0 if mask is None else (labels >= 0) & mask
    top = teacher.argmax(-1)
    gold = labels.where(shifts, top).long()[..., None]
    top = top[..., None]
    shifted = teacher.scatter(-1, top, teacher.gather(-1, gold))
    return shifted.scatter(-1, gold, teacher.gather(-1, top))


def _around(
    weight: Tensor, temperature: float, beta: float, mask: Tensor | None, lowest: float
) -> Tensor:
    return (temperature + beta * (mean(weight, mask=mask) - weight)).clamp(min=lowest)


def _almost_unit(values: Tensor) -> Tensor:
    values = wide(values.masked_fill(values.isneginf(), 0.0))
    length: Tensor = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return values / (length + 1e-4)
