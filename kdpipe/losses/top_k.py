"""Loss on the k largest of very many logits, as of a masked language model.

Legend: N places, V classes (a vocabulary), K classes that were kept of the teacher, K <= V.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdpipe.errors import UsageError
from kdpipe.losses.logits import divergence, floored, log_probabilities
from kdpipe.losses.reduce import Reduction, blank, mean, wide


def top_k_kl(
    student: Tensor,
    values: Tensor,
    indices: Tensor,
    log_normalizer: Tensor,
    *,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = False,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    reduction: Reduction = "token",
) -> Tensor:
    """KL(teacher || student) over the teacher's K largest classes and one bucket for the rest.

    Student `[N, V]`; of the teacher `values [N, K]`, its logits, `indices [N, K]`, their classes,
    and `log_normalizer [N]`, the logsumexp of all of its V logits at temperature 1. The bucket has
    what probability remains on either side, so that the student also learns how much. This is never
    more than the KL over all V classes, and equal to it for K = V. In place of N there may be
    `B, T` with `mask [B, T]`.

    The normalizer says nothing about other temperatures: at those there is no bucket, and both
    sides are softmaxes over the K classes alone; what the student gives to others is then free.
    """
    if not values.shape == indices.shape == (*student.shape[:-1], values.shape[-1]):
        raise UsageError(
            f"top-k logits do not fit: student {[*student.shape]}, values {[*values.shape]},"
            f" indices {[*indices.shape]}: one line of k values and k classes for each place"
        )
    indices = indices.long()
    logits = floored(wide(blank(student, mask, reduction)))
    teacher = wide(blank(values, mask, reduction)).to(logits.dtype)
    if temperature != 1.0 or values.shape[-1] == student.shape[-1]:
        mine = log_probabilities(logits.gather(-1, indices), temperature)
        theirs = log_probabilities(teacher, temperature)
    else:
        mine = _with_rest(logits, indices)
        theirs = _with_remainder(floored(teacher - log_normalizer.to(teacher.dtype)[..., None]))
    losses = divergence(theirs, mine)
    if scale_by_temperature_squared:
        losses = losses * temperature**2
    return mean(losses, mask=mask, lengths=lengths, reduction=reduction).to(student.dtype)


def _with_rest(logits: Tensor, indices: Tensor) -> Tensor:
    """[..., K + 1]: log-probabilities of the classes at `indices`, and of all others together."""
    whole = logits.logsumexp(-1, keepdim=True)
    # 1 minus the rest would be 0, and its logarithm -inf, for a student that is sure.
    others = logits.scatter(-1, indices, torch.finfo(logits.dtype).min / 2)
    rest = others.logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, indices), rest], -1) - whole


def _with_remainder(log_p: Tensor) -> Tensor:
    """[..., K + 1]: log-probabilities `[..., K]`, and that of what they leave of 1."""
    remains = 1.0 - log_p.exp().sum(-1, keepdim=True)
    nothing = torch.finfo(log_p.dtype).min / 2
    some = remains > 64 * torch.finfo(log_p.dtype).eps  # less, or below 0, is rounding of the sum
    return torch.cat([log_p, remains.where(some, 1.0).log().where(some, nothing)], -1)
