"""Losses between the logits of student and teacher.

Legend: B rows, T places of the longest row, N real tokens of all rows together, C classes. Logits
are `[B, C]`; `[B, T, C]` with `mask [B, T]`; or flat `[N, C]` with `lengths [B]`, which only a mean
over sequences needs. A logit of -inf is a class that is not there. A temperature is a number or a
tensor, one for each row or each token. The gradient of a loss at temperature T shrinks with T^2:
`scale_by_temperature_squared=True` makes up for it (Hinton et al., arXiv 1503.02531, section 2),
and is off unless asked for. The teacher's side needs no gradient.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdpipe.losses.reduce import Reduction, blank, check_places, check_same, mean, wide

Direction = Literal["forward", "reverse", "jensen-shannon"]


def soft_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    scale_by_temperature_squared: bool = False,
    mean_over_classes: bool = False,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Cross-entropy of the student's distribution against the teacher's, mean over places.

    At agreement this is the teacher's entropy, not 0. `mean_over_classes` divides by C, as
    TinyBERT's code does.
    """
    check_same(student, teacher)
    mine = log_probabilities(blank(student, mask, reduction), temperature)
    theirs = log_probabilities(blank(teacher, mask, reduction), temperature)
    values = -(theirs.exp() * mine).sum(-1)
    if mean_over_classes:
        values = values / student.shape[-1]
    if scale_by_temperature_squared:
        values = values * squared(temperature, student)
    return mean(values, mask=mask, lengths=lengths, reduction=reduction).to(student.dtype)


def kl_divergence(
    student: Tensor,
    teacher: Tensor,
    *,
    direction: Direction = "forward",
    temperature: float | Tensor = 1.0,
    scale_by_temperature_squared: bool = False,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Kullback-Leibler divergence, mean over places; 0 at agreement.

    `forward` is KL(teacher || student), `reverse` KL(student || teacher), `jensen-shannon` the mean
    of the two divergences to the even mixture, at most log 2.
    """
    check_same(student, teacher)
    mine = log_probabilities(blank(student, mask, reduction), temperature)
    theirs = log_probabilities(blank(teacher, mask, reduction), temperature)
    if direction == "forward":
        values = divergence(theirs, mine)
    elif direction == "reverse":
        values = divergence(mine, theirs)
    else:
        mixture = torch.logaddexp(mine, theirs) - math.log(2.0)
        values = (divergence(theirs, mixture) + divergence(mine, mixture)) / 2.0
    if scale_by_temperature_squared:
        values = values * squared(temperature, student)
    return mean(values, mask=mask, lengths=lengths, reduction=reduction).to(student.dtype)


def logits_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Squared error of the logits over the temperature, mean over classes, then over places.

    A class that is -inf on either side is left out of its place's mean.
    """
    check_same(student, teacher)
    there = ~(student.isneginf() | teacher.isneginf())
    difference = (blank(x, mask, reduction).masked_fill(~there, 0.0) for x in (student, teacher))
    mine, theirs = (wide(x) / per_place(temperature, student) for x in difference)
    values = (mine - theirs).square().sum(-1) / there.sum(-1).clamp(min=1)
    return mean(values, mask=mask, lengths=lengths, reduction=reduction).to(student.dtype)


def binary_soft_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    scale_by_temperature_squared: bool = False,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Cross-entropy of each label's sigmoid against the teacher's, mean over the C labels.

    For several labels at a time, where the classes do not exclude each other; -inf is a certain no.
    """
    check_same(student, teacher)
    mine, theirs = (
        floored(wide(blank(x, mask, reduction)) / per_place(temperature, x))
        for x in (student, teacher)
    )
    bits = functional.binary_cross_entropy_with_logits(mine, theirs.sigmoid(), reduction="none")
    values = bits.mean(-1)
    if scale_by_temperature_squared:
        values = values * squared(temperature, student)
    return mean(values, mask=mask, lengths=lengths, reduction=reduction).to(student.dtype)


def dropout_penalty(
    student: Tensor,
    without_dropout: Tensor,
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Half the squared distance of a model's logits with and without dropout, mean over places.

    The regulariser of ID-CNN taggers (Strubell et al., arXiv 1702.02098, after Ma et al., arXiv
    1609.08017); both sides have a gradient.
    """
    check_same(student, without_dropout)
    difference = blank(wide(student) - wide(without_dropout), mask, reduction)
    values = difference.square().sum(-1) / 2.0
    return mean(values, mask=mask, lengths=lengths, reduction=reduction).to(student.dtype)


def span_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """[B, T] logits of where a span starts or ends, -inf where `mask [B, T]` says padding.

    What comes out is logits `[B, C]` with C = T for all functions here and for `cross_entropy`: a
    softmax over the real places of each row.
    """
    check_places(logits, mask, None)
    return logits.masked_fill(~mask, -math.inf)


def log_probabilities(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Log-softmax over classes; a class of -inf gets a finite value whose exp is 0."""
    return floored(wide(logits) / per_place(temperature, logits)).log_softmax(-1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """[...]: KL(p || q) of finite log-probabilities `[..., C]`."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def floored(values: Tensor) -> Tensor:
    """The same with half of the lowest number in place of -inf, which can still be subtracted."""
    return values.clamp(min=torch.finfo(values.dtype).min / 2)


def per_place(numbers: float | Tensor, values: Tensor) -> float | Tensor:
    """Numbers by row `[B]` or by token `[B, T]` or `[N]`, made to fit values with more axes."""
    if not isinstance(numbers, Tensor):
        return numbers
    return numbers.reshape(*numbers.shape, *[1] * (values.dim() - numbers.dim()))


def squared(temperature: float | Tensor, logits: Tensor) -> float | Tensor:
    """T^2, made to fit a loss for each place of logits `[..., C]`."""
    fitting = per_place(temperature, logits)
    return fitting.squeeze(-1).square() if isinstance(fitting, Tensor) else fitting**2
