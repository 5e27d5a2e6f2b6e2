"""Target `qkv`: queries, keys and values of chosen layers, one vector each for each real token."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdpipe.config import Frozen
from kdpipe.targets.question import Question, Storage


class Qkv(Frozen):
    """Keep what attention is made of: relations and scores of any kind can be built from it."""

    kind: Literal["qkv"] = "qkv"
    layers: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """1 is the first layer."""
    parts: Annotated[tuple[Literal["query", "key", "value"], ...], Field(min_length=1)] = (
        "query",
        "key",
        "value",
    )
    """Which of the three to keep."""
    storage: Storage = "fp16"
    """How a value is kept: `fp32`, `fp16`, `bf16`, or `int8` with one scale for each vector."""

    def questions(self) -> list[Question]:
        """One question for each layer and part."""
        return [
            Question(part=part, layer=layer, storage=self.storage)
            for layer in sorted(set(self.layers))
            for part in dict.fromkeys(self.parts)
        ]
