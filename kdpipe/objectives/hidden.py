"""Objective `hidden`: layers of the student match layers of the teacher, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdpipe.objectives.base import Objective
from kdpipe.parts import Part

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from kdpipe.activations import Activations, Dims
    from kdpipe.parts import Needs

Layer = Annotated[int, Field(ge=0)]


class MatchHidden(Objective):
    """Match hidden states (TinyBERT, arXiv 1909.10351, eq. 8 and 9, over real tokens only)."""

    kind: Literal["hidden"] = "hidden"
    layers: Annotated[dict[Layer, Layer], Field(min_length=1)]
    """Student layer: teacher layer; 0 is the output of the embeddings."""
    loss: Literal["mse", "cosine"] = "mse"
    reduction: Literal["token", "sequence"] = "token"
    """`token`: every token counts the same; `sequence`: every row counts the same."""
    projection: Literal["linear", "none"] = "linear"
    """A learned linear map from the student's width to the teacher's, one for each pair of layers,
    saved with the student; `none` where the widths are equal."""

    @property
    def unit(self) -> Literal["rows", "tokens"]:
        """What the loss is a mean over."""
        return "tokens" if self.reduction == "token" else "rows"

    def needs(self) -> tuple[Needs, Needs]:
        """What is needed of the student and of the teacher."""
        mine, theirs = self.layers, self.layers.values()
        return hidden(mine), hidden(theirs)

    def projections(self, student: Dims, teacher: Dims) -> dict[str, nn.Module]:
        """One linear map a pair of layers; raises UsageError where they are needed but off."""
        from torch import nn

        from kdpipe.errors import UsageError

        if self.projection == "none":
            if student.hidden != teacher.hidden:
                raise UsageError(
                    f"objective hidden: projection 'none' needs equal widths, the student has"
                    f" {student.hidden} and the teacher {teacher.hidden}: use projection: linear"
                )
            return {}
        return {str(layer): nn.Linear(student.hidden, teacher.hidden) for layer in self.layers}

    def compute(
        self, student: Activations, teacher: Activations, projections: nn.ModuleDict
    ) -> Tensor:
        """The loss, a scalar: the mean over the pairs of layers."""
        import torch

        from kdpipe import losses

        function = {"mse": losses.token_mse, "cosine": losses.token_cosine}[self.loss]
        lengths = student.lengths if self.reduction == "sequence" else None
        terms = []
        for mine, theirs in self.layers.items():
            said = student[Part("hidden", mine)]
            if self.projection == "linear":
                said = projections[str(mine)](said)
            terms.append(function(said, teacher[Part("hidden", theirs)], lengths))
        return torch.stack(terms).mean()


def hidden(layers: Iterable[int]) -> Needs:
    """The hidden states of layers."""
    return frozenset(Part("hidden", layer) for layer in layers)
