"""Target `embedding`: one vector for each row, after the teacher's pooling, dense and normalise."""

from __future__ import annotations

from typing import Literal

from kdpipe.config import Frozen
from kdpipe.targets.question import Question, Storage


class Embedding(Frozen):
    """Keep the sentence embedding."""

    kind: Literal["embedding"] = "embedding"
    storage: Storage = "fp16"
    """How a value is kept: `fp32`, `fp16`, `bf16`, or `int8` with one scale for each vector."""

    def questions(self) -> list[Question]:
        """One question: the embedding of each row."""
        return [Question(part="embedding", layer=None, storage=self.storage)]
