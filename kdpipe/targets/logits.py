"""Target `logits`: what the teacher's head says about each row, or about each real token."""

from __future__ import annotations

from typing import Literal

from kdpipe.config import Frozen
from kdpipe.targets.question import Question, Storage


class Logits(Frozen):
    """Keep logits: of a sequence head for rows, of a token or a span head for tokens."""

    kind: Literal["logits"] = "logits"
    per: Literal["row", "token"] = "row"
    """`row`: a sequence classifier or regressor; `token`: a tagger, or the start and the end of a
    span in question answering."""
    storage: Storage = "fp32"
    """How a value is kept: `fp32`, `fp16`, `bf16`, or `int8` with one scale for each vector."""

    def questions(self) -> list[Question]:
        """One question."""
        part: Literal["logits", "token_logits"] = "logits" if self.per == "row" else "token_logits"
        return [Question(part=part, layer=None, storage=self.storage)]
