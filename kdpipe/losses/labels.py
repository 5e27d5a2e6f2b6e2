"""Losses against labels: gold ones, or a teacher's arg-max taken as gold.

Legend: B rows, T places of the longest row, N real tokens of all rows together, C classes. Logits
are `[B, C]`; `[B, T, C]` with `mask [B, T]`; or flat `[N, C]` with `lengths [B]`, which only a mean
over sequences needs. Places without a label never count, not even with `reduction="all"`.
Weights (confidence), one for each row or each place, multiply a place's loss; the mean still
divides by how many places there are, so that doubtful labels pull less.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from kdpipe.losses.logits import floored, log_probabilities, per_place
from kdpipe.losses.reduce import Reduction, blank, check_places, check_same, mean, wide

IGNORED = -100
"""The class id of a place without a label, as in PyTorch."""


def cross_entropy(
    student: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Cross-entropy of logits `[..., C]` against class ids `[...]`; -100 is no label."""
    check_places(labels, mask, None)
    kept = _both(labels != IGNORED, mask, reduction)
    chosen = labels.masked_fill(~kept, 0).long()[..., None]
    values = -log_probabilities(blank(student, kept)).gather(-1, chosen).squeeze(-1)
    return _mean(values, weights, kept, lengths, reduction).to(student.dtype)


def binary_cross_entropy(
    student: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Cross-entropy of sigmoids of `[..., C]` against 0 and 1 `[..., C]`, mean over labels.

    -100 is no label: it is left out of its place's mean, and a place that has no other, too.
    """
    check_same(student, labels)
    there = labels != IGNORED
    check_places(there[..., 0], mask, None)
    kept = _both(there.any(-1), mask, reduction)
    logits = floored(wide(blank(student, kept))).masked_fill(~there, 0.0)
    bits = functional.binary_cross_entropy_with_logits(
        logits, labels.to(logits.dtype).masked_fill(~there, 0.0), reduction="none"
    )
    values = bits.masked_fill(~there, 0.0).sum(-1) / there.sum(-1).clamp(min=1)
    return _mean(values, weights, kept, lengths, reduction).to(student.dtype)


def regression_mse(
    student: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Squared error of numbers `[B]`, `[B, T]` or `[N]` against numbers; NaN is no label."""
    check_same(student, labels)
    check_places(labels, mask, None)
    kept = _both(~labels.isnan(), mask, reduction)
    values = (wide(student) - labels).masked_fill(~kept, 0.0).square()
    return _mean(values, weights, kept, lengths, reduction).to(student.dtype)


def _both(labelled: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    """Which places count: those with a label that are real, unless padding counts."""
    return labelled if mask is None or reduction == "all" else labelled & mask


def _mean(
    values: Tensor,
    weights: Tensor | None,
    kept: Tensor,
    lengths: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    if weights is not None:
        values = values * per_place(weights, values)
    by: Reduction = "sequence" if reduction == "sequence" else "token"
    return mean(values, mask=kept, lengths=lengths, reduction=by)
