"""What to keep of what a teacher says: the kinds of target."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdpipe.targets.embedding import Embedding
from kdpipe.targets.hidden import Hidden
from kdpipe.targets.question import Question, Storage

Target = Annotated[Embedding | Hidden, Field(discriminator="kind")]

__all__ = ["Embedding", "Hidden", "Question", "Storage", "Target"]
