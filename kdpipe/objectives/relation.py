"""Objective `relation`: how tokens relate by their queries, keys and values (MiniLM, MiniLMv2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints

from kdpipe.errors import UsageError
from kdpipe.objectives.base import Objective, Pairing, Seen
from kdpipe.objectives.layers import Layers, chosen
from kdpipe.parts import Part, PartName

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.activations import Dims
    from kdpipe.parts import Needs

_ONE = "(query|key|value)"
Pair = Annotated[str, StringConstraints(pattern=f"^{_ONE}-{_ONE}$")]


class MatchRelation(Objective):
    """Match softmax(X Y^T / sqrt(d)) by KL divergence (MiniLMv2, arXiv 2012.15828, eq. 4 to 6)."""

    kind: Literal["relation"]
    layers: Layers = "last"
    """Student layer: teacher layer, 1 is the first; or `last` or `uniform`."""
    pairs: Annotated[dict[Pair, PositiveFloat], Field(min_length=1)] = {
        "query-query": 1.0,
        "key-key": 1.0,
        "value-value": 1.0,
    }
    """Relation: weight, of any two of query, key and value; `query-key` is attention itself."""
    heads: PositiveInt | None = None
    """Relation heads, which divide both widths; None: the student's attention heads."""
    reduction: Literal["token", "sequence"] = "token"
    """`token`: every token counts the same; `sequence`: every row counts the same."""

    @property
    def learns_from(self) -> frozenset[PartName]:
        """What files must have for it."""
        return frozenset({"query", "key", "value"})

    def unit(self, pair: Pairing) -> Literal["rows", "tokens"]:
        """What the loss is a mean over."""
        return "tokens" if self.reduction == "token" else "rows"

    def needs(self, pair: Pairing) -> tuple[Needs, Needs]:
        """The three projections of both; raises UsageError for heads that do not divide."""
        heads = self.heads or pair.student.heads
        for whose, dims in (("student", pair.student), ("teacher", pair.teacher)):
            if dims.hidden % heads:
                raise UsageError(
                    f"objective 'relation': {heads} heads do not divide the {whose}'s width of"
                    f" {dims.hidden}: set heads to a number that divides both widths"
                )
            if any(_names(pair_) == ("query", "key") for pair_ in self.pairs):
                refuse_relative(whose, dims, "relation query-key")
        layers = chosen(self.layers, pair, first=1)
        names = sorted({name for both in self.pairs for name in _names(both)})
        return (
            frozenset(Part(name, layer) for name in names for layer in layers),
            frozenset(Part(name, layer) for name in names for layer in layers.values()),
        )

    def compute(self, seen: Seen, pair: Pairing, learned: nn.ModuleDict) -> Tensor:
        """The loss, a scalar: weighted sum over the relations, mean over the pairs of layers."""
        import torch

        from kdpipe import losses

        mask, terms = seen.student.mask(), []
        heads = self.heads or pair.student.heads
        for mine, theirs in chosen(self.layers, pair, first=1).items():
            for both, weight in self.pairs.items():
                left, right = _names(both)
                student, teacher = (
                    (said.padded(Part(left, layer)), said.padded(Part(right, layer)))
                    for said, layer in ((seen.student, mine), (seen.teacher, theirs))
                )
                loss = losses.relation_kl(
                    student, teacher, heads=heads, mask=mask, reduction=self.reduction
                )
                terms.append(weight * loss)
        return torch.stack(terms).sum() * len(self.pairs) / len(terms)


def refuse_relative(whose: str, dims: Dims, what: str) -> None:
    """Refuse scores of a family whose attention is not made of queries and keys alone."""
    if dims.relative:
        raise UsageError(
            f"{what}: the attention of the {whose} also depends on positions that queries and keys"
            " do not show: use relations query-query, key-key and value-value"
        )


def _names(pair: str) -> tuple[PartName, PartName]:
    left, right = pair.split("-")
    return left, right  # type: ignore[return-value]
