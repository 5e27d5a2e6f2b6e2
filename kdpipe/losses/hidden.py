"""Losses between hidden states.

Legend: B rows, T places of the longest row, N real tokens of all rows together, D and E widths.
Values are `[B, T, D]` with `mask [B, T]` (True: a real token; None: all are), or flat `[N, D]` with
`lengths [B]`, which only a mean over sequences needs. The teacher's side needs no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdpipe.losses.reduce import Reduction, blank, check_places, check_same, mean, pairs_of, wide


def hidden_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Mean squared error of the values of `[B, T, D]` or `[N, D]`.

    TinyBERT (arXiv 1909.10351) eq. 8, whose code counts padding: `reduction="all"`.
    """
    check_same(student, teacher)
    error = blank(wide(student) - wide(teacher), mask, reduction).square().mean(-1)
    return mean(error, mask=mask, lengths=lengths, reduction=reduction).to(student.dtype)


def hidden_cosine(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """1 - cosine of the vectors of `[B, T, D]` or `[N, D]`; 1 where one of them is zero.

    The L_cos of DistilBERT (arXiv 1910.01108), section 3.
    """
    check_same(student, teacher)
    mine, theirs = _unit(blank(student, mask, reduction)), _unit(blank(teacher, mask, reduction))
    error = 1.0 - (mine * theirs).sum(-1)
    return mean(error, mask=mask, lengths=lengths, reduction=reduction).to(student.dtype)


def pkd(student: Tensor, teacher: Tensor, *, lengths: Tensor | None = None) -> Tensor:
    """Squared distance of the first tokens' vectors at length 1, mean over rows.

    Patient knowledge distillation (Sun et al., arXiv 1908.09355). Values are `[B, T, D]`, flat
    `[N, D]` with `lengths [B]`, or `[B, D]`, the vectors themselves. A zero vector stays zero.
    """
    check_same(student, teacher)
    mine, theirs = _first(student, lengths), _first(teacher, lengths)
    return mean((_unit(mine) - _unit(theirs)).square().sum(-1)).to(student.dtype)


def fsp(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], *, mask: Tensor | None = None
) -> Tensor:
    """Squared error of the products `[B, D, D]` of two layers each, `[B, T, D]`, mean over rows.

    The product of layers X and Y is X^T Y / n with n the real tokens of the row ("flow of solution
    procedure", Yim et al., CVPR 2017; TextBrewer's `fsp` and `gram`). Each row counts
    the same; without a mask padding counts, n = T.
    """
    mine, theirs = _flow(student, mask), _flow(teacher, mask)
    check_same(mine, theirs)
    rows = None if mask is None else mask.any(1)
    return mean((mine - theirs).square().mean((1, 2)), mask=rows).to(student[0].dtype)


def nst(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Squared error of the products `[B, T, T]` of two layers each; widths may differ.

    The product of layers X and Y is X Y^T / D, for a student `[B, T, D]` and a teacher `[B, T, E]`
    ("neuron selectivity transfer", Huang and Wang, arXiv 1707.01219, in the variant of TextBrewer's
    `nst` and `mmd`). The mean is over pairs of tokens: a row of n has n^2 of them.
    """
    mine, theirs = _similarity(student, mask, reduction), _similarity(teacher, mask, reduction)
    check_same(mine, theirs)
    error = (mine - theirs).square().flatten(1)
    return mean(error, mask=pairs_of(mask), reduction=reduction).to(student[0].dtype)


def _flow(layers: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
    """[B, D, D] of two layers `[B, T, D]`."""
    first, second = (wide(blank(layer, mask)) for layer in layers)
    if mask is None:
        return first.mT @ second / max(first.shape[1], 1)
    return first.mT @ second / mask.sum(1).clamp(min=1)[:, None, None]


def _similarity(layers: tuple[Tensor, Tensor], mask: Tensor | None, reduction: Reduction) -> Tensor:
    """[B, T, T] of two layers `[B, T, D]`."""
    first, second = (wide(blank(layer, mask, reduction)) for layer in layers)
    return first @ second.mT / first.shape[-1]


def _first(values: Tensor, lengths: Tensor | None) -> Tensor:
    """[B, D]: the vectors of the first tokens."""
    if lengths is not None:
        check_places(values[..., 0], None, lengths)
        return values[lengths.cumsum(0) - lengths]
    return values[:, 0] if values.dim() == 3 else values


def _unit(values: Tensor) -> Tensor:
    """Vectors `[..., D]` at length 1; a zero vector stays zero, and its gradient small."""
    values = wide(values)
    length: Tensor = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return values / length.where(length > 0, 1.0)
