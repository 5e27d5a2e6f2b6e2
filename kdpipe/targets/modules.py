"""Target `modules`: the outputs of named modules of the teacher, one vector for each real token."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdpipe.config import Frozen
from kdpipe.parts import ModuleName
from kdpipe.targets.question import Question, Storage


class Modules(Frozen):
    """Keep what modules of the transformer give that no other target names."""

    kind: Literal["modules"]
    names: Annotated[tuple[ModuleName, ...], Field(min_length=1)]
    """As `named_modules` of the transformer without its head has them, such as
    `encoder.layer.3.intermediate`; each is called once in a pass and gives a vector a token."""
    storage: Storage = "fp16"
    """How a value is kept: `fp32`, `fp16`, `bf16`, or `int8` with one scale for each vector."""

    def questions(self) -> list[Question]:
        """One question for each module."""
        return [
            Question(part="module", layer=None, storage=self.storage, module=name)
            for name in dict.fromkeys(self.names)
        ]
