"""What a model can be asked for: parts of what it says in one forward pass."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import StringConstraints

PartName = Literal[
    "embedding",
    "hidden",
    "query",
    "key",
    "value",
    "module",
    "logits",
    "token_logits",
    "masked_logits",
]
HeadKind = Literal["sequence", "token", "span", "mlm"]
Problem = Literal[
    "single_label_classification",
    "multi_label_classification",
    "regression",
    "token",
    "span",
    "mlm",
]
"""What a head's logits mean; the first three are transformers' `problem_type` of a sequence."""
_PER_ROW = {"embedding", "logits"}


class Part(NamedTuple):
    """One kind of vector: one for each row, for each token, or for each masked token."""

    name: PartName
    """`embedding`: after pooling, dense and normalise; `hidden`: states of a layer; `query`, `key`,
    `value`: outputs of a layer's three projections, all heads side by side; `module`: the output of
    any module of the transformer; `logits`: what the head says about a row; `token_logits`: what
    the head says about a token; `masked_logits`: what it says about a token that is hidden from
    it."""
    layer: int | None = None
    """Where a model has one for each layer: 1 is the first, 0 (of `hidden`) the embeddings."""
    top_k: int | None = None
    """Of a vocabulary's logits only so many, the largest, as `masked_logits.largest` packs them;
    None: all."""
    steady: bool = False
    """Without dropout, also while the model is trained."""
    module: str | None = None
    """Name of a module of the transformer without its head, as `named_modules` gives it."""

    def __str__(self) -> str:
        if self.module is not None:
            return f"module {self.module}"
        name = {"hidden": "hidden states"}.get(self.name, self.name.replace("_", " "))
        if self.top_k is not None:
            return f"{name} (the {self.top_k} largest)"
        return name if self.layer is None else f"{name} of layer {self.layer}"

    @property
    def per_token(self) -> bool:
        """Whether there is a vector for each token, masked or not, or one for each row."""
        return self.name not in _PER_ROW

    @property
    def only_masked(self) -> bool:
        """Whether only masked tokens have a vector."""
        return self.name == "masked_logits"


def some(classes: tuple[str, ...], most: int = 5) -> str:
    """For people: `no, yes`, or the first of many: `a, b, c, d, e, ...`."""
    return ", ".join([*classes[:most], *(["..."] if len(classes) > most else [])])


EMBEDDING, LOGITS, TOKEN_LOGITS = Part("embedding"), Part("logits"), Part("token_logits")
MASKED_LOGITS = Part("masked_logits")
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{1,150}$")]
"""Name of a module, which is part of the name of a file."""
Needs = frozenset[Part]
"""Parts that are wanted together."""


def listed(needs: Needs) -> str:
    """For people: `embedding, hidden states of layer 2`."""
    return ", ".join(str(part) for part in sorted(needs, key=order)) or "nothing"


def order(part: Part) -> tuple[str, int, int, str]:
    """What parts are sorted by."""
    return part.name, part.layer or 0, part.top_k or 0, part.module or ""
