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
    module: str | None = None

    @property
    def what(self) -> Part:
        """The part that is asked for."""
        return Part(self.part, self.layer, self.top_k, module=self.module)

    @model_serializer(mode="wrap")
    def _keys_of_some_where_they_are(self, usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        kept: dict[str, Any] = usual(self)
        some = {"top_k", "module"}
        return {key: kept[key] for key in kept if key not in some or kept[key] is not None}

    @property
    def name(self) -> str:
        """`embedding.fp16`, `hidden.2.fp16`, `masked_logits.32.fp16`: a file-name-safe name."""
        words = (self.part, self.layer, self.top_k, self.module, self.storage)
        return ".".join(str(word) for word in words if word is not None)
