"""The unit of what a cache keeps: one part of what a teacher says, in one storage type."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from kdpipe.config import Frozen
from kdpipe.parts import Part, PartName

Storage = Literal["fp32", "fp16", "bf16", "int8"]


class Question(Frozen):
    """One part of what the teacher says; its answer to one block of the corpus is one shard."""

    part: PartName
    layer: int | None
    storage: Storage
    top_k: int | None = None

    @property
    def what(self) -> Part:
        """The part that is asked for."""
        return Part(self.part, self.layer, self.top_k)

    @model_serializer(mode="wrap")
    def _top_k_where_there_is_one(self, usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        kept: dict[str, Any] = usual(self)
        return {key: kept[key] for key in kept if key != "top_k" or self.top_k is not None}

    @property
    def name(self) -> str:
        """`embedding.fp16`, `hidden.2.fp16`, `masked_logits.32.fp16`: a file-name-safe name."""
        words = (self.part, self.layer, self.top_k, self.storage)
        return ".".join(str(word) for word in words if word is not None)
