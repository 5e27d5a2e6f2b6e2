"""Objective `structure`: how vectors relate within each row, in place of the vectors themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat, model_validator

from kdpipe.errors import UsageError
from kdpipe.objectives.base import Layer, Objective, Pairing, Seen
from kdpipe.objectives.hidden import hidden_of, widths_of
from kdpipe.objectives.layers import chosen
from kdpipe.objectives.projection import Projection, projection
from kdpipe.parts import Part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.activations import Activations
    from kdpipe.parts import Needs, PartName


class MatchStructure(Objective):
    """Match products of two layers' hidden states, `[D, D]` or `[T, T]` for each row."""

    kind: Literal["structure"]
    loss: Literal["fsp", "nst"]
    """`fsp` (Gram): products of widths, over tokens (Yim et al. 2017); `nst` (MMD): products of
    tokens, over widths (Huang and Wang, arXiv 1707.01219), for any two widths."""
    student_layers: tuple[Layer, Layer]
    """The two layers whose states are multiplied; the same one twice for one layer's own products;
    0 is the output of the embeddings."""
    teacher_layers: tuple[Layer, Layer]
    projection: Projection = "none"
    """Of both student layers, one map each: `linear`, `relu`, `tanh`, or `none` where `nst` is
    used or the widths are equal."""
    learning_rate: PositiveFloat | None = None
    """Of the maps; None: that of the student."""

    @model_validator(mode="after")
    def _nst_needs_no_map(self) -> MatchStructure:
        if self.loss == "nst" and self.projection != "none":
            raise ValueError("loss 'nst' compares any two widths: leave projection out")
        return self

    @property
    def learns_from(self) -> frozenset[PartName]:
        """What files must have for it."""
        return frozenset({"hidden"})

    def unit(self, pair: Pairing) -> Literal["rows", "tokens"]:
        """What the loss is a mean over."""
        return "rows"

    @property
    def projection_learning_rate(self) -> float | None:
        """Of the learned maps."""
        return self.learning_rate

    def needs(self, pair: Pairing) -> tuple[Needs, Needs]:
        """Hidden states of both."""
        for mine, theirs in zip(self.student_layers, self.teacher_layers, strict=True):
            chosen({mine: theirs}, pair, first=0)
            widths = widths_of(pair, mine, theirs)
            if self.loss == "fsp" and self.projection == "none" and widths[0] != widths[1]:
                raise UsageError(
                    f"objective 'structure': fsp needs equal widths, the student has {widths[0]}"
                    f" and the teacher {widths[1]}: use projection: linear, or loss: nst"
                )
        return hidden_of(self.student_layers), hidden_of(self.teacher_layers)

    def projections(self, pair: Pairing) -> dict[str, nn.Module]:
        """One map a student layer."""
        if self.projection == "none":
            return {}
        layers = zip(self.student_layers, self.teacher_layers, strict=True)
        widths = {str(mine): widths_of(pair, mine, theirs) for mine, theirs in layers}
        return projection(self.projection, widths)

    def compute(self, seen: Seen, pair: Pairing, learned: nn.ModuleDict) -> Tensor:
        """The loss, a scalar."""
        from kdpipe import losses

        mine = _states(seen.student, self.student_layers, learned)
        theirs = _states(seen.teacher, self.teacher_layers, None)
        function = {"fsp": losses.fsp, "nst": losses.nst}[self.loss]
        return function(mine, theirs, mask=seen.student.mask())


def _states(
    said: Activations, layers: tuple[int, int], learned: nn.ModuleDict | None
) -> tuple[Tensor, Tensor]:
    from kdpipe.activations import pad

    mask = said.mask()

    def one(layer: int) -> Tensor:
        states = said[Part("hidden", layer)]
        return pad(learned[str(layer)](states) if learned else states, mask)

    return one(layers[0]), one(layers[1])
