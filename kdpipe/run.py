"""A student in training: what it learns from, where it stands, and what a step says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kdpipe.corpus import Corpus
from kdpipe.device import Dtype, pick_dtype
from kdpipe.encoder import Encoder
from kdpipe.gold import Gold
from kdpipe.join import Bools, Joined
from kdpipe.parts import EMBEDDING
from kdpipe.terms import Terms
from kdpipe.train_spec import TrainSpec


@dataclass(frozen=True)
class Step:
    """What one step did; losses are means over its rows or tokens."""

    number: int
    """1 for the first."""
    epoch: float
    loss: float
    losses: dict[str, float]
    learning_rate: float
    grad_norm: float
    """0 where it overflowed fp16, so that nothing was changed."""
    tokens: int
    measured: dict[str, float] | None
    """On held-out rows, as `validate.measure` has it; None between measurements."""


@dataclass
class Progress:
    """Where a run stands: all that a checkpoint holds beside tensors."""

    step: int = 0
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    """What was measured at the best step."""
    without_better: int = 0
    """Measurements since then."""
    skipped: int = 0
    """Steps that changed nothing, as their gradients overflowed fp16."""


class Training(Protocol):
    """What a loop over steps keeps: of one student, or of several that share a body."""

    @property
    def spec(self) -> TrainSpec:
        """How it is trained."""

    @property
    def dtype(self) -> Dtype:
        """Of the matrix products."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Over all parameters that are trained."""

    @property
    def scaler(self) -> torch.amp.GradScaler:
        """Keeps gradients within fp16."""

    @property
    def progress(self) -> Progress:
        """Where it stands."""

    @property
    def best(self) -> dict[str, Tensor]:
        """Weights of the best step, on the CPU; empty before the first measurement."""

    @property
    def modules(self) -> nn.ModuleDict:
        """Everything with weights."""


@dataclass(frozen=True)
class Run:
    """One student in training, with all that it learns from."""

    spec: TrainSpec
    student: Encoder
    terms: Terms
    corpus: Corpus
    caches: Mapping[str, Joined]
    device: torch.device
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Keeps gradients within fp16; without effect in other number types."""
    progress: Progress
    best: dict[str, Tensor]
    """Weights of the best step, on the CPU; empty before the first measurement."""
    gold: Gold | None
    """What the corpus' labels mean to the student; None where no objective looks at them."""

    @property
    def dtype(self) -> Dtype:
        """Of the matrix products."""
        return "fp16" if self.spec.fp16 else pick_dtype(self.spec.bf16, self.device)

    @property
    def measures_cosine(self) -> bool:
        """Whether the first cache has embeddings as wide as the student's."""
        first = next(iter(self.caches.values()), None)
        if (
            first is None
            or self.student.answers is not None
            or EMBEDDING not in first.cache.provides
        ):
            return False
        return first.cache.dims.embedding == self.student.dims.embedding

    @property
    def known(self) -> Bools:
        """[R] bool: rows of the corpus that all teachers have read."""
        known = np.ones(self.corpus.facts.rows, np.bool_)
        for cache in self.caches.values():
            known &= True if cache.known is None else cache.known
        return known

    def refuse_changed(self) -> None:
        """Raises ArtifactError where a file that it learns from is not what it was."""
        self.corpus.mapped.refuse_changed()
        for joined in self.caches.values():
            joined.cache.refuse_changed()

    @property
    def modules(self) -> nn.ModuleDict:
        """Everything with weights."""
        return nn.ModuleDict({"student": self.student, "terms": self.terms})
