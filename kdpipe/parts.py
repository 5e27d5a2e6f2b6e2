"""What a model can be asked for: parts of what it says in one forward pass."""

from __future__ import annotations

from typing import Literal, NamedTuple

PartName = Literal["embedding", "hidden", "query", "key", "value", "logits", "token_logits"]
HeadKind = Literal["sequence", "token", "span"]
Problem = Literal[
    "single_label_classification",
    "multi_label_classification",
    "regression",
    "token",
    "span",
]
"""What a head's logits mean; the first three are transformers' `problem_type` of a sequence."""
_PER_ROW = {"embedding", "logits"}


class Part(NamedTuple):
    """One kind of vector: one for each row, or one for each token."""

    name: PartName
    """`embedding`: after pooling, dense and normalise; `hidden`: states of a layer; `query`, `key`,
    `value`: outputs of a layer's three projections, all heads side by side; `logits`: what the head
    says about a row; `token_logits`: what the head says about a token."""
    layer: int | None = None
    """Where a model has one for each layer: 1 is the first, 0 (of `hidden`) the embeddings."""

    def __str__(self) -> str:
        name = {"hidden": "hidden states"}.get(self.name, self.name.replace("_", " "))
        return name if self.layer is None else f"{name} of layer {self.layer}"

    @property
    def per_token(self) -> bool:
        """Whether there is a vector for each token, or one for each row."""
        return self.name not in _PER_ROW


def some(classes: tuple[str, ...], most: int = 5) -> str:
    """For people: `no, yes`, or the first of many: `a, b, c, d, e, ...`."""
    return ", ".join([*classes[:most], *(["..."] if len(classes) > most else [])])


EMBEDDING, LOGITS, TOKEN_LOGITS = Part("embedding"), Part("logits"), Part("token_logits")
Needs = frozenset[Part]
"""Parts that are wanted together."""


def listed(needs: Needs) -> str:
    """For people: `embedding, hidden states of layer 2`."""
    ordered = sorted(needs, key=lambda part: (part.name, part.layer or 0))
    return ", ".join(str(part) for part in ordered) or "nothing"
