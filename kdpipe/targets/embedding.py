"""Target `embedding`: one vector for each row, after the teacher's pooling, dense and normalise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdpipe.config import Frozen
from kdpipe.targets.question import Question, Storage

if TYPE_CHECKING:
    from kdpipe.activations import Needs


class Embedding(Frozen):
    """Keep the sentence embedding."""

    kind: Literal["embedding"] = "embedding"
    storage: Storage = "fp16"
    """How a value is kept: `fp32`, `fp16`, `bf16`, or `int8` with one scale for each vector."""

    def needs(self) -> Needs:
        """What to ask of the teacher."""
        from kdpipe.activations import Needs

        return Needs(embedding=True)

    def questions(self) -> list[Question]:
        """One question: the embedding of each row."""
        return [Question(part="embedding", layer=None, storage=self.storage)]
