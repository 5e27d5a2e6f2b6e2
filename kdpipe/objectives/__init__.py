"""What a student has to match: the kinds of objective."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdpipe.objectives.base import Objective
from kdpipe.objectives.embedding import MatchEmbedding
from kdpipe.objectives.hidden import MatchHidden

AnyObjective = Annotated[MatchEmbedding | MatchHidden, Field(discriminator="kind")]

__all__ = ["AnyObjective", "MatchEmbedding", "MatchHidden", "Objective"]
