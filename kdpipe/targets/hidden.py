"""Target `hidden`: the hidden states of chosen layers, one vector for each real token."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdpipe.config import Frozen
from kdpipe.targets.question import Question, Storage


class Hidden(Frozen):
    """Keep hidden states."""

    kind: Literal["hidden"] = "hidden"
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    """0 is the output of the embeddings, i the output of the i-th layer."""
    storage: Storage = "fp16"
    """How a value is kept: `fp32`, `fp16`, `bf16`, or `int8` with one scale for each vector."""

    def questions(self) -> list[Question]:
        """One question for each layer, so that caches with other layers share the files."""
        layers = sorted(set(self.layers))
        return [Question(part="hidden", layer=layer, storage=self.storage) for layer in layers]
