"""Objective `attention`: scores or distributions of attention (TinyBERT, TextBrewer, MiniLM)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdpipe.errors import UsageError
from kdpipe.objectives.base import Objective, Pairing, Seen
from kdpipe.objectives.layers import Layers, chosen
from kdpipe.objectives.relation import refuse_relative
from kdpipe.parts import Part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.activations import Activations
    from kdpipe.parts import Needs, PartName

_SUMMED = {"mse_sum", "ce_mean"}


class MatchAttention(Objective):
    """Match attention, built from queries and keys: scores Q K^T / sqrt(d) before the softmax."""

    kind: Literal["attention"]
    layers: Layers = "uniform"
    """Student layer: teacher layer, 1 is the first; or `uniform` or `last`."""
    loss: Literal["mse", "mse_sum", "ce", "ce_mean"] = "mse"
    """`mse`: squared error of scores (TinyBERT eq. 7); `mse_sum`: of their sums over heads; `ce`:
    cross-entropy of distributions; `ce_mean`: of the mean over heads. The two over all heads allow
    for different numbers of heads."""

    @property
    def learns_from(self) -> frozenset[PartName]:
        """What files must have for it."""
        return frozenset({"query", "key"})

    def unit(self, pair: Pairing) -> Literal["rows", "tokens"]:
        """What the loss is a mean over."""
        return "tokens"

    def needs(self, pair: Pairing) -> tuple[Needs, Needs]:
        """Queries and keys of both; raises UsageError where heads differ in number."""
        mine, theirs = pair.student.heads, pair.teacher.heads
        if not theirs:
            raise UsageError(
                "objective 'attention': files do not tell how many heads the teacher has: use"
                " kind: relation, pairs: {query-key: 1.0}"
            )
        if mine != theirs and self.loss not in _SUMMED:
            raise UsageError(
                f"objective 'attention': loss {self.loss!r} needs equal numbers of heads, the"
                f" student has {mine} and the teacher {theirs}: use mse_sum or ce_mean, or"
                " kind: relation"
            )
        refuse_relative("student", pair.student, "objective 'attention'")
        refuse_relative("teacher", pair.teacher, "objective 'attention'")
        layers = chosen(self.layers, pair, first=1)
        return (
            frozenset(Part(name, layer) for name in ("query", "key") for layer in layers),
            frozenset(Part(name, layer) for name in ("query", "key") for layer in layers.values()),
        )

    def compute(self, seen: Seen, pair: Pairing, learned: nn.ModuleDict) -> Tensor:
        """The loss, a scalar: the mean over the pairs of layers."""
        import torch

        from kdpipe import losses

        function = {
            "mse": losses.attention_mse,
            "mse_sum": losses.attention_mse_sum,
            "ce": losses.attention_ce,
            "ce_mean": losses.attention_ce_mean,
        }[self.loss]
        mask = seen.student.mask()
        terms = [
            function(
                _scores(seen.student, mine, pair.student.heads),
                _scores(seen.teacher, theirs, pair.teacher.heads),
                mask=mask,
            )
            for mine, theirs in chosen(self.layers, pair, first=1).items()
        ]
        return torch.stack(terms).mean()


def _scores(said: Activations, layer: int, heads: int) -> Tensor:
    from kdpipe import losses

    return losses.scores_of(
        said.padded(Part("query", layer)), said.padded(Part("key", layer)), heads
    )
