"""What to keep of what a teacher says: the kinds of target."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdpipe.targets.embedding import Embedding
from kdpipe.targets.hidden import Hidden
from kdpipe.targets.imported import Imported
from kdpipe.targets.logits import Logits
from kdpipe.targets.mlm import MaskedTokens
from kdpipe.targets.modules import Modules
from kdpipe.targets.qkv import Qkv
from kdpipe.targets.question import Question, Storage

Target = Annotated[
    Embedding | Hidden | Qkv | Modules | Logits | MaskedTokens, Field(discriminator="kind")
]

__all__ = [
    "Embedding",
    "Hidden",
    "Imported",
    "Logits",
    "MaskedTokens",
    "Modules",
    "Qkv",
    "Question",
    "Storage",
    "Target",
]
