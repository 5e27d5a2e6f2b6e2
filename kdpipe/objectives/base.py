"""What every objective has: a weight that may change, and the cache it learns from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

from kdpipe.config import Frozen, Name
from kdpipe.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.activations import Activations, Dims
    from kdpipe.parts import Needs


class Objective(Frozen, ABC):
    """One term of the loss; it sees two Activations and cannot know what made them."""

    kind: str
    weight: Schedule = 1.0
    """A number, or points `[[progress, weight], ...]` joined by straight lines."""
    cache: Name | None = None
    """Which of the student's caches to learn from; may be left out where there is one."""

    @property
    @abstractmethod
    def unit(self) -> Literal["rows", "tokens"]:
        """What the loss is a mean over: accumulated batches are weighted by their count of it."""

    @property
    def equal_widths(self) -> bool:
        """Whether embeddings of student and teacher must be equally wide."""
        return False

    @abstractmethod
    def needs(self) -> tuple[Needs, Needs]:
        """What is needed of the student and of the teacher."""

    @abstractmethod
    def projections(self, student: Dims, teacher: Dims) -> dict[str, nn.Module]:
        """Learned maps on the student's side, by name."""

    @abstractmethod
    def compute(
        self, student: Activations, teacher: Activations, projections: nn.ModuleDict
    ) -> Tensor:
        """The loss, a scalar."""
