"""Objective `modules`: named modules of the student match named modules of the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveFloat

from kdpipe.objectives.base import Objective, Pairing, Seen
from kdpipe.objectives.hidden import compared
from kdpipe.objectives.projection import Projection, projection
from kdpipe.parts import ModuleName, Part, PartName

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.parts import Needs


class MatchModules(Objective):
    """Match what any two modules give for each token, such as parts of a layer."""

    kind: Literal["modules"]
    names: Annotated[dict[ModuleName, ModuleName], Field(min_length=1)]
    """Module of the student: module of the teacher, as `named_modules` of the transformer without
    its head has them; each is called once in a pass and gives a vector a token."""
    loss: Literal["mse", "cosine"] = "mse"
    """`mse`: squared error, mean over the vector; `cosine`: 1 - cosine."""
    reduction: Literal["token", "sequence"] = "token"
    """`token`: every token counts the same; `sequence`: every row counts the same."""
    projection: Projection = "linear"
    """A learned map from the student's width to the teacher's for each pair, saved with the
    student: `linear`, with `relu` or `tanh` behind it, or `none` where the widths are equal."""
    learning_rate: PositiveFloat | None = None
    """Of the maps; None: that of the student."""

    @property
    def learns_from(self) -> frozenset[PartName]:
        """What files must have for it."""
        return frozenset({"module"})

    @property
    def projection_learning_rate(self) -> float | None:
        """Of the learned maps."""
        return self.learning_rate

    def unit(self, pair: Pairing) -> Literal["rows", "tokens"]:
        """What the loss is a mean over."""
        return "tokens" if self.reduction == "token" else "rows"

    def needs(self, pair: Pairing) -> tuple[Needs, Needs]:
        """What the modules of both give."""
        mine, theirs = (frozenset(map(_part, names)) for names in (self.names, self.names.values()))
        return mine, theirs

    def projections(self, pair: Pairing) -> dict[str, nn.Module]:
        """One map a pair of modules; raises UsageError for a module that cannot be matched."""
        widths = {
            _key(mine): (pair.student.width(_part(mine)), pair.teacher.width(_part(theirs)))
            for mine, theirs in self.names.items()
        }
        return projection(self.projection, widths)

    def compute(self, seen: Seen, pair: Pairing, learned: nn.ModuleDict) -> Tensor:
        """The loss, a scalar: the mean over the pairs of modules."""
        import torch

        terms = []
        for mine, theirs in self.names.items():
            said, wanted = seen.student[_part(mine)], seen.teacher[_part(theirs)]
            said = said if self.projection == "none" else learned[_key(mine)](said)
            terms.append(compared(self.loss, said, wanted, seen.student.lengths, self.reduction))
        return torch.stack(terms).mean()


def _part(name: str) -> Part:
    return Part("module", module=name)


def _key(name: str) -> str:
    """A name that a learned map may have: without dots."""
    return name.replace(".", "-")
