"""Objective `emd`: every layer of the student learns from every layer of the teacher (BERT-EMD)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from kdpipe.objectives.base import Objective, Pairing, Seen
from kdpipe.objectives.hidden import hidden_of
from kdpipe.objectives.projection import Projection, projection
from kdpipe.parts import Part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.parts import Needs, PartName


class MatchManyLayers(Objective):
    """Match hidden states of all layers, as much as they fit (Li et al., arXiv 2010.06133).

    The earth mover's distance with equal weights for all layers of a model; the cost of a pair is
    the mean squared error of its states. Needs scipy: pip install 'kdpipe[emd]'.
    """

    kind: Literal["emd"]
    projection: Projection = "linear"
    """A learned map for each layer of the student to the teacher's width, saved with the student:
    `linear`, with `relu` or `tanh` behind it, or `none` where the widths are equal."""
    learning_rate: PositiveFloat | None = None
    """Of the maps; None: that of the student."""

    @property
    def learns_from(self) -> frozenset[PartName]:
        """What files must have for it."""
        return frozenset({"hidden"})

    def unit(self, pair: Pairing) -> Literal["rows", "tokens"]:
        """What the loss is a mean over."""
        return "tokens"

    @property
    def projection_learning_rate(self) -> float | None:
        """Of the learned maps."""
        return self.learning_rate

    def needs(self, pair: Pairing) -> tuple[Needs, Needs]:
        """Hidden states of all layers of both, without the embeddings."""
        return (
            hidden_of(range(1, pair.student.layers + 1)),
            hidden_of(range(1, pair.teacher.layers + 1)),
        )

    def projections(self, pair: Pairing) -> dict[str, nn.Module]:
        """One map for each layer of the student."""
        names = [str(layer) for layer in range(1, pair.student.layers + 1)]
        widths = pair.student.hidden, pair.teacher.hidden
        return projection(self.projection, dict.fromkeys(names, widths))

    def compute(self, seen: Seen, pair: Pairing, learned: nn.ModuleDict) -> Tensor:
        """The loss, a scalar."""
        from kdpipe import losses

        mine = []
        for layer in range(1, pair.student.layers + 1):
            states = seen.student[Part("hidden", layer)]
            mine.append(states if self.projection == "none" else learned[str(layer)](states))
        theirs = [seen.teacher[Part("hidden", n)] for n in range(1, pair.teacher.layers + 1)]
        return losses.emd(mine, theirs)
