"""The same loss from two teachers, one live and one from a cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch

from kdpipe.activations import Activations, Dims
from kdpipe.encoder import Encoder
from kdpipe.loader import Batch
from kdpipe.objectives.base import Unit
from kdpipe.pipeline import StudentSpec
from kdpipe.terms import Terms

TOLERANCE = {"fp32": 1e-6, "fp16": 2e-3, "bf16": 2e-2, "int8": 2e-2}
"""Storage: how far a loss may be from the live one; gradients ten times as far."""


def terms_of(objective: dict[str, Any], student: Dims, teachers: Mapping[str, Dims]) -> Terms:
    """One objective, with the same projections each time."""
    keys = {"caches": [*teachers], "model": {"kind": "shape"}, "objectives": [objective]}
    torch.manual_seed(0)
    return Terms(StudentSpec.model_validate(keys), student, teachers)


def learned(student: Encoder, terms: Terms, batch: Batch) -> tuple[float, torch.Tensor]:
    """The loss, and the gradients of everything that is trained, one after the other."""
    student.eval().zero_grad()
    terms.zero_grad()
    said = student(batch.tokens, terms.needs_of_student())
    loss, _ = terms(said, batch, progress=0.0, share=dict.fromkeys(get_args(Unit), 1.0))
    loss.backward()
    weights = [*student.parameters(), *terms.parameters()]
    return loss.item(), torch.cat([p.grad.flatten() for p in weights if p.grad is not None])


def assert_same(
    name: str, student: Encoder, terms: Terms, live: Batch, cached: Batch, storage: str
) -> None:
    """Loss and gradients from both are as alike as the storage type allows."""
    tolerance = TOLERANCE[storage]
    (wanted, slopes), (found, others) = (learned(student, terms, one) for one in (live, cached))
    assert wanted > 1e-3, name
    assert abs(found - wanted) <= tolerance * (1.0 + wanted), name
    assert (others - slopes).norm() < 10 * tolerance * slopes.norm(), name


def with_teachers(batch: Batch, teachers: dict[str, Activations]) -> Batch:
    """The same rows and labels, with other answers of the teachers."""
    return Batch(batch.tokens, teachers, batch.gold, batch.words)
