"""Loss formulas as pure functions of tensors, each with its source.

Legend: B rows, N real tokens of all rows together, D width. Every function gives a scalar; the
teacher's side needs no gradient. Padding never gets here: token-level values are flat.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error over all values of `[B, D]` and `[B, D]`."""
    return functional.mse_loss(student, teacher)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine, mean over the rows of `[B, D]` and `[B, D]`."""
    return 1.0 - functional.cosine_similarity(student, teacher, dim=-1).mean()


def similarity_structure(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error between the cosine matrices within `[B, D]` and within `[B, E]`.

    Similarity-preserving distillation (Tung and Mori, arXiv 1907.09682, eq. 4) with cosines in
    place of row-normalised Gram matrices, as mean over the B (B - 1) pairs of different rows; 0
    for one row.
    """
    rows = student.shape[0]
    if rows < 2:
        return student.sum() * 0.0
    mine, theirs = functional.normalize(student, dim=-1), functional.normalize(teacher, dim=-1)
    error = (mine @ mine.T - theirs @ theirs.T).square()
    return (error.sum() - error.diagonal().sum()) / (rows * (rows - 1))


def token_mse(student: Tensor, teacher: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean squared error of `[N, D]` and `[N, D]` over tokens, with `lengths [B]` over rows.

    TinyBERT (arXiv 1909.10351) eq. 8; its code counts padding in the mean, here there is none.
    """
    return _mean((student - teacher).square().mean(-1), lengths)


def token_cosine(student: Tensor, teacher: Tensor, lengths: Tensor | None = None) -> Tensor:
    """1 - cosine of `[N, D]` and `[N, D]`, mean over tokens, with `lengths [B]` over rows.

    The L_cos of DistilBERT (arXiv 1910.01108), section 3.
    """
    return _mean(1.0 - functional.cosine_similarity(student, teacher, dim=-1), lengths)


def _mean(values: Tensor, lengths: Tensor | None) -> Tensor:
    """Mean of `[N]` over tokens; with `lengths [B]` the mean over rows of each row's mean."""
    if lengths is None:
        return values.mean()
    rows = torch.repeat_interleave(torch.arange(lengths.numel(), device=values.device), lengths)
    totals = values.new_zeros(lengths.numel()).index_add(0, rows, values)
    return (totals / lengths).mean()
