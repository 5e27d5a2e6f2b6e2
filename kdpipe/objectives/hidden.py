"""Objective `hidden`: layers of the student match layers of the teacher, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from kdpipe.errors import UsageError
from kdpipe.objectives.base import Objective, Pairing, Seen
from kdpipe.objectives.layers import Layers, chosen
from kdpipe.objectives.projection import Projection, projection
from kdpipe.parts import Part

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from kdpipe.parts import Needs, PartName


class MatchHidden(Objective):
    """Match hidden states (TinyBERT, arXiv 1909.10351, eq. 8 and 9, over real tokens only)."""

    kind: Literal["hidden"] = "hidden"
    layers: Layers
    """Student layer: teacher layer, 0 is the output of the embeddings; or `uniform` or `last`."""
    loss: Literal["mse", "cosine", "pkd"] = "mse"
    """`mse`: squared error, mean over the vector; `cosine`: 1 - cosine (DistilBERT); `pkd`: squared
    error between the first token's vectors, each brought to length 1 (Patient KD)."""
    reduction: Literal["token", "sequence"] = "token"
    """`token`: every token counts the same; `sequence`: every row counts the same."""
    projection: Projection = "linear"
    """A learned map from the student's width to the teacher's, saved with the student: `linear`,
    with `relu` or `tanh` behind it, or `none` where the widths are equal."""
    share_projection: bool = False
    """One map for all pairs of layers, as in TinyBERT's code, in place of one for each."""
    learning_rate: PositiveFloat | None = None
    """Of the maps; None: that of the student."""

    @property
    def learns_from(self) -> frozenset[PartName]:
        """What files must have for it."""
        return frozenset({"hidden"})

    def unit(self, pair: Pairing) -> Literal["rows", "tokens"]:
        """What the loss is a mean over."""
        return "tokens" if self.reduction == "token" and self.loss != "pkd" else "rows"

    @property
    def projection_learning_rate(self) -> float | None:
        """Of the learned maps."""
        return self.learning_rate

    def needs(self, pair: Pairing) -> tuple[Needs, Needs]:
        """Hidden states of both."""
        layers = chosen(self.layers, pair, first=0)
        return hidden_of(layers), hidden_of(layers.values())

    def projections(self, pair: Pairing) -> dict[str, nn.Module]:
        """One map a pair of layers, or one for all; raises UsageError where off but needed."""
        layers = chosen(self.layers, pair, first=0)
        widths = {str(mine): widths_of(pair, mine, theirs) for mine, theirs in layers.items()}
        if not self.share_projection:
            return projection(self.projection, widths)
        if len({*widths.values()}) > 1:
            raise UsageError(
                "objective 'hidden': layer 0 has another width than the layers above it: leave it"
                " out, or set share_projection: false"
            )
        return projection(self.projection, {"all": next(iter(widths.values()))})

    def compute(self, seen: Seen, pair: Pairing, learned: nn.ModuleDict) -> Tensor:
        """The loss, a scalar: the mean over the pairs of layers."""
        import torch

        terms = []
        for mine, theirs in chosen(self.layers, pair, first=0).items():
            said = seen.student[Part("hidden", mine)]
            if self.projection != "none":
                said = learned["all" if self.share_projection else str(mine)](said)
            wanted = seen.teacher[Part("hidden", theirs)]
            terms.append(compared(self.loss, said, wanted, seen.student.lengths, self.reduction))
        return torch.stack(terms).mean()


def compared(
    loss: Literal["mse", "cosine", "pkd"],
    student: Tensor,
    teacher: Tensor,
    lengths: Tensor,
    reduction: Literal["token", "sequence"],
) -> Tensor:
    """A loss between two `[N, D]` of rows with `lengths [B]`, a scalar."""
    from kdpipe import losses

    if loss == "pkd":
        return losses.pkd(student, teacher, lengths=lengths)
    function = {"mse": losses.hidden_mse, "cosine": losses.hidden_cosine}[loss]
    return function(student, teacher, lengths=lengths, reduction=reduction)


def widths_of(pair: Pairing, mine: int, theirs: int) -> tuple[int, int]:
    """Of the hidden states of a layer of the student and one of the teacher."""
    return pair.student.width(Part("hidden", mine)), pair.teacher.width(Part("hidden", theirs))


def hidden_of(layers: Iterable[int]) -> Needs:
    """The hidden states of layers."""
    return frozenset(Part("hidden", layer) for layer in layers)
