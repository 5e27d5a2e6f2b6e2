"""The one place where means are taken: over tokens, over sequences, or over all places.

Legend: B rows, T places of the longest row, N real tokens of all rows together, P places of a row
(tokens, or pairs of tokens).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kdpipe.errors import UsageError

Reduction = Literal["token", "sequence", "all"]
"""`token`: every real token of the batch counts the same; `sequence`: every row counts the same,
by the mean over its real tokens; `all`: every place counts the same, padding included."""


def mean(
    values: Tensor,
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """The mean of losses, `[B, P]` with `mask [B, P]` or flat `[N]` with `lengths [B]`.

    Without a mask all places are real; without lengths each flat value is a row of its own. What
    is masked may be NaN. Rows without a real place are left out, and the mean of nothing is 0.
    Raises UsageError where shapes do not fit.
    """
    check_places(values, mask, lengths)
    values = wide(values)
    real = torch.ones_like(values, dtype=torch.bool)
    if mask is not None and reduction != "all":
        real, values = mask, values.masked_fill(~mask, 0.0)
    counts = real.to(values.dtype)
    if reduction == "sequence" and (values.dim() == 2 or lengths is not None):
        totals, counts = _by_row(values, lengths), _by_row(counts, lengths)
        values, counts = totals / counts.clamp(min=1.0), (counts > 0).to(values.dtype)
    return values.sum() / counts.sum().clamp(min=1.0)


def _by_row(values: Tensor, lengths: Tensor | None) -> Tensor:
    """[B]: sums over each row of `[B, P]`, or of flat `[N]` with `lengths [B]`."""
    if lengths is None:
        return values.sum(1)
    places = torch.arange(values.numel(), device=values.device)
    rows = torch.bucketize(places, lengths.cumsum(0), right=True)
    return values.new_zeros(lengths.numel()).index_add(0, rows, values)


def blank(values: Tensor, mask: Tensor | None, reduction: Reduction = "token") -> Tensor:
    """Values `[..., D]` with zeros where `mask [...]` says padding, unless padding counts.

    A masked loss has no gradient, but 0 times the NaN of a place that holds anything is NaN.
    """
    if mask is None or reduction == "all":
        return values
    check_places(values[..., 0], mask, None)
    return values.masked_fill(~mask[..., None], 0.0)


def pairs_of(mask: Tensor | None) -> Tensor | None:
    """[B, T * T] of `mask [B, T]`: which pairs of places are two real tokens."""
    return None if mask is None else (mask[:, :, None] & mask[:, None, :]).flatten(1)


def wide(values: Tensor) -> Tensor:
    """Half types as float32, in which their squares and sums have room; others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def check_same(student: Tensor, teacher: Tensor) -> None:
    """Refuse two tensors of different shapes, which torch might broadcast; raises UsageError."""
    if student.shape != teacher.shape:
        raise UsageError(
            f"this loss needs equal shapes, the student has {[*student.shape]} and the teacher"
            f" {[*teacher.shape]}: project the student, or align the tokens first"
        )


def check_places(values: Tensor, mask: Tensor | None, lengths: Tensor | None) -> None:
    """Refuse a mask or lengths that do not fit losses `[N]` or `[B, P]`; raises UsageError."""
    places = [*values.shape]
    if mask is not None and (mask.dtype != torch.bool or mask.shape != values.shape):
        raise UsageError(
            f"the mask is {mask.dtype} of shape {[*mask.shape]}, the loss is about places"
            f" {places}: give a torch.bool mask of that shape"
        )
    if lengths is not None and values.dim() != 1:
        raise UsageError(
            f"lengths belong to flat values [N, D], the loss is about places {places}: give a mask"
        )
