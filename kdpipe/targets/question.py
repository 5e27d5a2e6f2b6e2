"""The unit of what a cache keeps: one part of what a teacher says, in one storage type."""

from __future__ import annotations

from typing import Literal

from kdpipe.config import Frozen
from kdpipe.parts import Part, PartName

Storage = Literal["fp32", "fp16", "bf16", "int8"]


class Question(Frozen):
    """One part of what the teacher says; its answer to one block of the corpus is one shard."""

    part: PartName
    layer: int | None
    storage: Storage

    @property
    def what(self) -> Part:
        """The part that is asked for."""
        return Part(self.part, self.layer)

    @property
    def name(self) -> str:
        """`embedding.fp16`, `hidden.2.fp16`: a file-name-safe name."""
        return ".".join(
            str(word) for word in (self.part, self.layer, self.storage) if word is not None
        )
