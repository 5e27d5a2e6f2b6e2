"""Losses between self-attention relations, built from queries, keys and values.

Legend: B rows, T places of the longest row, A relation heads, D and E widths of all heads together.
Student tensors are `[B, T, D]`, the teacher's `[B, T, E]`: both are cut anew into A heads, so that
widths and numbers of attention heads may differ. `mask [B, T]` is True at real tokens; without it
all are. Padded keys take no part in any softmax; what a mean is over is queries. The teacher's side
needs no gradient.
"""

from __future__ import annotations

from torch import Tensor

from kdpipe.losses.attention import over_keys, scores_of
from kdpipe.losses.logits import divergence, log_probabilities
from kdpipe.losses.reduce import Reduction, blank, check_same, mean, wide

Related = Tensor | tuple[Tensor, Tensor]
"""Two tensors `[B, T, D]` that are related to each other, or one that is to itself."""


def relation_kl(
    student: Related,
    teacher: Related,
    *,
    heads: int,
    mask: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """KL(teacher || student) of softmax(X Y^T / sqrt(D / A)), mean over heads and queries.

    MiniLMv2 (arXiv 2012.15828): one such loss each for queries, keys and values with themselves.
    Its code by fschlatt is `reduction="all"`, that by Bloomberg `"sequence"`. Raises UsageError
    where a width does not divide into `heads`.
    """
    mine = _relation(student, heads, mask, reduction)
    theirs = _relation(teacher, heads, mask, reduction)
    check_same(mine, theirs)
    values = divergence(log_probabilities(theirs), log_probabilities(mine)).mean(1)
    first = student[0] if isinstance(student, tuple) else student
    return mean(values, mask=mask, reduction=reduction).to(first.dtype)


def minilm(
    student: tuple[Tensor, Tensor, Tensor],
    teacher: tuple[Tensor, Tensor, Tensor],
    *,
    heads: int,
    mask: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """MiniLM (arXiv 2002.10957): KL of the attention plus KL of the relation of values.

    Queries, keys and values of one layer on each side; `heads` is the number of attention heads
    that both have.
    """
    queries, keys, values = zip(student, teacher, strict=True)
    attention = relation_kl(
        (queries[0], keys[0]),
        (queries[1], keys[1]),
        heads=heads,
        mask=mask,
        reduction=reduction,
    )
    return attention + relation_kl(*values, heads=heads, mask=mask, reduction=reduction)


def _relation(related: Related, heads: int, mask: Tensor | None, reduction: Reduction) -> Tensor:
    """[B, A, T, T]: scaled products, -inf at the keys that are padding."""
    first, second = related if isinstance(related, tuple) else (related, related)
    first, second = (wide(blank(x, mask, reduction)) for x in (first, second))
    return over_keys(scores_of(first, second, heads), mask)
