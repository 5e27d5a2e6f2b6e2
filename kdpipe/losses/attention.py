"""Losses between attention scores: what is there before the softmax.

Legend: B rows, H heads, T places of the longest row, P = T * T pairs of places, D width of all
heads together. Scores are `[B, H, T, T]`, queries by keys; functions that add or average heads also
take `[B, T, T]`. `mask [B, T]` is True at real tokens; without it all are. The teacher's side needs
no gradient.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from kdpipe.errors import UsageError
from kdpipe.losses.logits import log_probabilities
from kdpipe.losses.reduce import Reduction, check_places, check_same, mean, pairs_of, wide

Keys = Literal["real", "all"]
"""What a softmax is over: the keys of real tokens, or all, padding included."""


def scores_of(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """[B, H, T, T]: products of queries and keys `[B, T, D]` by head, over sqrt(D / heads).

    Raises UsageError where the width does not divide into so many heads.
    """
    width = queries.shape[-1]
    if width % heads:
        raise UsageError(
            f"a width of {width} does not divide into {heads} heads: choose a divisor of {width}"
        )
    size = width // heads
    mine, theirs = (x.unflatten(-1, (heads, size)).transpose(1, 2) for x in (queries, keys))
    scores: Tensor = mine @ theirs.mT / math.sqrt(size)
    return scores


def attention_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    zero_below: float = -math.inf,
    mask: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Squared error of scores `[B, H, T, T]`, mean over heads, then over pairs of tokens.

    TinyBERT (arXiv 1909.10351) eq. 7. A row of n real tokens has n^2 pairs. Scores not above
    `zero_below` count as 0. TinyBERT's code is `zero_below=-100, reduction="all"`, on scores that
    have a large negative number added at the keys of padding.
    """
    check_same(student, teacher)
    error = _difference(student, teacher, zero_below, mask, reduction).square().mean(1)
    return mean(error, mask=pairs_of(mask), reduction=reduction).to(student.dtype)


def attention_mse_sum(
    student: Tensor,
    teacher: Tensor,
    *,
    zero_below: float = -math.inf,
    mask: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Squared error of the sums over heads, mean over pairs of tokens; heads may differ in number.

    TextBrewer's `attention_mse_sum`. Sums not above `zero_below` count as 0.
    """
    mine, theirs = (x.sum(1) if x.dim() == 4 else x for x in (wide(student), wide(teacher)))
    check_same(mine, theirs)
    error = _difference(mine, theirs, zero_below, mask, reduction).square()
    return mean(error, mask=pairs_of(mask), reduction=reduction).to(student.dtype)


def attention_ce(
    student: Tensor,
    teacher: Tensor,
    *,
    zero_below: float = -math.inf,
    softmax_over: Keys = "real",
    mask: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """Cross-entropy of attention against the teacher's, from scores, mean over heads and queries.

    TextBrewer's `attention_ce`. The teacher's probability of a key counts as 0 where its score is
    not above `zero_below`, and at padding. `softmax_over="all"` lets padded keys take part in the
    softmax before that, as TextBrewer does; the loss then depends on what stands there.
    """
    check_same(student, teacher)
    values = _cross_entropy(student, teacher, zero_below, softmax_over, mask, reduction).mean(1)
    return mean(values, mask=mask, reduction=reduction).to(student.dtype)


def attention_ce_mean(
    student: Tensor,
    teacher: Tensor,
    *,
    zero_below: float = -math.inf,
    softmax_over: Keys = "real",
    mask: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """As `attention_ce`, of the means over heads of the scores; heads may differ in number."""
    mine, theirs = (x.mean(1) if x.dim() == 4 else x for x in (wide(student), wide(teacher)))
    check_same(mine, theirs)
    values = _cross_entropy(mine, theirs, zero_below, softmax_over, mask, reduction)
    return mean(values, mask=mask, reduction=reduction).to(student.dtype)


def over_keys(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores `[B, ..., T, T]` with -inf at the keys that are padding."""
    return scores if mask is None else scores.masked_fill(~_keys(scores, mask), -math.inf)


def _keys(scores: Tensor, mask: Tensor) -> Tensor:
    """[B, ..., 1, T] of `mask [B, T]`."""
    check_places(scores[:, 0, 0] if scores.dim() == 4 else scores[:, 0], mask, None)
    return mask.view(mask.shape[0], *[1] * (scores.dim() - 2), mask.shape[1])


def _difference(
    student: Tensor,
    teacher: Tensor,
    zero_below: float,
    mask: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """[B, H, P] or [B, P]: student minus teacher, 0 at the pairs that do not count."""
    mine, theirs = (wide(x.masked_fill(x <= zero_below, 0.0)) for x in (student, teacher))
    difference = mine - theirs
    if mask is not None and reduction != "all":
        keys = _keys(student, mask)
        difference = difference.masked_fill(~(keys & keys.mT), 0.0)
    return difference.flatten(-2)


def _cross_entropy(
    student: Tensor,
    teacher: Tensor,
    zero_below: float,
    softmax_over: Keys,
    mask: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """[B, H, T] or [B, T]: a value for each query."""
    left_out = over_keys(teacher, mask) <= zero_below
    if softmax_over == "real":
        student, teacher = over_keys(student, mask), over_keys(teacher, mask)
    if mask is not None and reduction != "all":
        student = student.masked_fill(~_keys(student, mask).mT, 0.0)
    mine, theirs = log_probabilities(student), log_probabilities(teacher)
    return -(theirs.exp().masked_fill(left_out, 0.0) * mine).sum(-1)
