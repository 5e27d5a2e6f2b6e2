"""The loss of a student: the weighted sum of its objectives, with their learned projections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdpipe.activations import Activations, Dims
from kdpipe.errors import ArtifactError
from kdpipe.loader import Batch
from kdpipe.objectives import Objective
from kdpipe.objectives.base import Pairing, Seen, Unit
from kdpipe.parts import Needs, listed
from kdpipe.pipeline import StudentSpec
from kdpipe.schedule import at


@dataclass(frozen=True)
class Term:
    """One objective at work."""

    name: str
    caches: Mapping[str, float]
    """What it learns from, and the share of each in the mean; empty where it needs no teacher."""
    objective: Objective
    pair: Pairing
    of_student: Needs
    of_teacher: Needs


class Terms(nn.Module):
    """All objectives of a student; its parameters are the projections."""

    def __init__(self, spec: StudentSpec, student: Dims, teachers: Mapping[str, Dims]) -> None:
        """Raises UsageError for an objective that these models cannot have."""
        super().__init__()
        self.terms: list[Term] = []
        learned: dict[str, nn.ModuleDict] = {}
        for number, objective in enumerate(spec.objectives):
            name = f"{number}-{objective.kind}"
            caches = _shares(objective, spec)
            # Each of several teachers has to fit; the student stands in where there is none.
            for teacher in [teachers[cache] for cache in caches] or [student]:
                pair = Pairing(student, teacher)
                needs = objective.needs(pair)
            self.terms.append(Term(name, caches, objective, pair, *needs))
            learned[name] = nn.ModuleDict(objective.projections(pair))
        self.projections = nn.ModuleDict(learned)

    def needs_of_student(self) -> Needs:
        """Everything that any objective needs of the student."""
        return Needs().union(*(term.of_student for term in self.terms))

    def needs_of_teachers(self) -> dict[str, Needs]:
        """Cache -> everything that any objective needs of it."""
        needs: dict[str, Needs] = {}
        for term in self.terms:
            for cache in term.caches if term.of_teacher else ():
                needs[cache] = needs.get(cache, Needs()) | term.of_teacher
        return needs

    def learning_rates(self) -> dict[str, float]:
        """Prefix of parameter names -> learning rate, where it is not the student's."""
        return {
            f"projections.{term.name}.": rate
            for term in self.terms
            if (rate := term.objective.projection_learning_rate) is not None
        }

    def check(self, provided: Mapping[str, Needs]) -> None:
        """Refuse caches that lack what an objective needs; raises ArtifactError."""
        for name, needs in self.needs_of_teachers().items():
            if not needs <= provided[name]:
                raise ArtifactError(
                    f"cache {name!r} lacks {listed(needs - provided[name])}, which the objectives"
                    " need: add them to its targets or files and run 'kdpipe cache-teacher'"
                )

    def forward(
        self,
        student: Activations,
        batch: Batch,
        *,
        progress: float,
        share: Mapping[Unit, float],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and each objective's own loss, not weighted, both scaled by `share`.

        `progress` in [0, 1] decides the weights; `share` is, for rows and for tokens, this batch's
        part of all batches that are accumulated for a step.
        """
        losses, total = {}, torch.zeros((), device=student.lengths.device)
        for term in self.terms:
            weight = at(term.objective.weight, progress)
            projections = self.projections[term.name]
            assert isinstance(projections, nn.ModuleDict)
            seen = Seen(student, _mean(term, batch), batch.gold, batch.words)
            loss = term.objective.compute(seen, term.pair, projections)
            part = share[term.objective.unit(term.pair)]
            losses[term.name] = loss.detach() * part
            if weight != 0.0:
                total = total + weight * part * loss
        return total, losses


def _shares(objective: Objective, spec: StudentSpec) -> dict[str, float]:
    weights = objective.averaged
    if weights:
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}
    cache = objective.cache or next(iter(spec.caches), None)
    return {} if cache is None or not objective.from_teacher else {cache: 1.0}


def _mean(term: Term, batch: Batch) -> Activations:
    """What the teachers of a term say: of several the weighted mean."""
    lengths = batch.tokens.lengths
    if not term.of_teacher:
        return Activations(lengths, {})
    if len(term.caches) == 1:
        return batch.teachers[next(iter(term.caches))]
    return Activations(
        lengths,
        {
            part: torch.stack(
                [share * batch.teachers[name][part] for name, share in term.caches.items()]
            ).sum(0)
            for part in term.of_teacher
        },
    )
