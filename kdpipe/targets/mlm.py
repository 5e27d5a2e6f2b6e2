"""Target `mlm`: the likeliest tokens of a masked language model, of very many."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from kdpipe.config import Frozen
from kdpipe.parts import PartName
from kdpipe.targets.question import Question, Storage


class MaskedTokens(Frozen):
    """Keep the largest logits of the vocabulary, with their tokens and the normaliser of all."""

    kind: Literal["mlm"]
    top_k: PositiveInt = 32
    """How many of a token; the rest of the probability is known as a whole."""
    where: Literal["masked", "all"] = "masked"
    """Of which tokens: of those that the corpus has masked, or of all."""
    storage: Storage = "fp16"
    """How a log-probability is kept: `fp32`, `fp16`, `bf16`, or `int8` with one scale a token."""

    def questions(self) -> list[Question]:
        """One question."""
        part: PartName = "masked_logits" if self.where == "masked" else "token_logits"
        return [Question(part=part, layer=None, storage=self.storage, top_k=self.top_k)]
