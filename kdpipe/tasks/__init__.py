"""How a student is measured: the kinds of task."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdpipe.tasks.fidelity import Fidelity
from kdpipe.tasks.similarity import Similarity

Task = Annotated[Fidelity | Similarity, Field(discriminator="kind")]

__all__ = ["Fidelity", "Similarity", "Task"]
