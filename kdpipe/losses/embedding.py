"""Losses between the embeddings of rows.

Legend: B rows, D and E widths. The teacher's side needs no gradient.
"""

from __future__ import annotations

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
