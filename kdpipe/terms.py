"""The loss of a student: the weighted sum of its objectives, with their learned projections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdpipe.activations import Activations, Dims
from kdpipe.errors import ArtifactError
from kdpipe.objectives import Objective
from kdpipe.parts import Needs, listed
from kdpipe.pipeline import StudentSpec
from kdpipe.schedule import at


@dataclass(frozen=True)
class Count:
    """How much there is of each unit that a loss can be a mean over."""

    rows: int
    tokens: int

    def of(self, unit: str) -> int:
        """The count of `rows` or `tokens`."""
        return self.rows if unit == "rows" else self.tokens


class Terms(nn.Module):
    """All objectives of a student; its parameters are the projections."""

    def __init__(self, spec: StudentSpec, student: Dims, teachers: Mapping[str, Dims]) -> None:
        super().__init__()
        self.objectives: list[tuple[str, str, Objective]] = []
        learned: dict[str, nn.ModuleDict] = {}
        for number, objective in enumerate(spec.objectives):
            name = f"{number}-{objective.kind}"
            cache = objective.cache or spec.caches[0]
            self.objectives.append((name, cache, objective))
            learned[name] = nn.ModuleDict(objective.projections(student, teachers[cache]))
        self.projections = nn.ModuleDict(learned)

    def needs_of_student(self) -> Needs:
        """Everything that any objective needs of the student."""
        needs = Needs()
        for _, _, objective in self.objectives:
            needs = needs | objective.needs()[0]
        return needs

    def needs_of_teachers(self) -> dict[str, Needs]:
        """Cache -> everything that any objective needs of it."""
        needs: dict[str, Needs] = {}
        for _, cache, objective in self.objectives:
            needs[cache] = needs.get(cache, Needs()) | objective.needs()[1]
        return needs

    def check(self, provided: Mapping[str, Needs]) -> None:
        """Refuse caches that lack what an objective needs; raises ArtifactError."""
        for name, needs in self.needs_of_teachers().items():
            if not needs <= provided[name]:
                raise ArtifactError(
                    f"cache {name!r} lacks {listed(needs - provided[name])}, which the objectives"
                    " need: add the targets to the cache and run 'kdpipe cache-teacher'"
                )

    def forward(
        self,
        student: Activations,
        teachers: Mapping[str, Activations],
        *,
        progress: float,
        share: Mapping[str, float],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and each objective's own loss, not weighted, both scaled by `share`.

        `progress` in [0, 1] decides the weights; `share` is, for rows and for tokens, this batch's
        part of all batches that are accumulated for a step.
        """
        losses, total = {}, torch.zeros((), device=student.lengths.device)
        for name, cache, objective in self.objectives:
            weight = at(objective.weight, progress)
            projections = self.projections[name]
            assert isinstance(projections, nn.ModuleDict)
            loss = objective.compute(student, teachers[cache], projections)
            losses[name] = loss.detach() * share[objective.unit]
            if weight != 0.0:
                total = total + weight * share[objective.unit] * loss
        return total, losses
