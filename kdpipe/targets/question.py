"""The unit of what a cache keeps: one part of what a teacher says, in one storage type."""

from __future__ import annotations

from typing import Literal

from kdpipe.config import Frozen

Storage = Literal["fp32", "fp16", "bf16", "int8"]


class Question(Frozen):
    """One kind of vector of the teacher; its answer to one block of the corpus is one shard."""

    part: Literal["embedding", "hidden"]
    """`embedding`: one vector a row; `hidden`: one vector a token."""
    layer: int | None
    storage: Storage

    @property
    def name(self) -> str:
        """`embedding.fp16`, `hidden.2.fp16`: a file-name-safe name."""
        return ".".join(
            str(word) for word in (self.part, self.layer, self.storage) if word is not None
        )

    @property
    def per_token(self) -> bool:
        """Whether there is a vector for each token, or one for each row."""
        return self.part != "embedding"
