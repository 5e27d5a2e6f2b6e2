"""What every objective has: a weight that may change, and the cache it learns from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field

from kdpipe.config import Frozen, Name
from kdpipe.parts import PartName
from kdpipe.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.activations import Activations, Dims
    from kdpipe.parts import Needs

Unit = Literal["rows", "tokens", "masked", "words", "labels"]
"""What a loss can be a mean over: rows, tokens, masked tokens, words, or what has a label."""
Layer = Annotated[int, Field(ge=0)]
LayerMap = Annotated[dict[Layer, Layer], Field(min_length=1)]
"""Student layer: teacher layer; 0 is the output of the embeddings, i that of the i-th layer."""


@dataclass(frozen=True)
class Pairing:
    """A student and the teacher that it learns from, as far as their shapes go."""

    student: Dims
    teacher: Dims


@dataclass(frozen=True)
class Seen:
    """What an objective sees of a batch."""

    student: Activations
    teacher: Activations
    gold: Tensor | None = None
    """Labels of the rows or of their tokens, as `kdpipe.gold` makes them; None without any."""
    words: Tensor | None = None
    """[N] bool: the first token of each word; None where rows are no lists of words."""

    def words_of_rows(self) -> Tensor:
        """[B] int64: words of each row that have a token."""
        import torch

        assert self.words is not None
        rows = torch.arange(len(self.student.lengths), device=self.words.device)
        row_of = rows.repeat_interleave(self.student.lengths)
        return torch.bincount(row_of[self.words], minlength=len(rows))


class Objective(Frozen, ABC):
    """One term of the loss; it sees two Activations and cannot know what made them."""

    kind: str
    weight: Schedule = 1.0
    """A number, or points `[[progress, weight], ...]` joined by straight lines."""
    cache: Name | None = None
    """Which of the student's caches to learn from; may be left out where there is one."""

    @abstractmethod
    def unit(self, pair: Pairing) -> Unit:
        """What the loss is a mean over: accumulated batches are weighted by their count of it."""

    @abstractmethod
    def needs(self, pair: Pairing) -> tuple[Needs, Needs]:
        """What is needed of the student and of the teacher.

        Raises:
            UsageError: what no student or teacher of these shapes can have.
        """

    def projections(self, pair: Pairing) -> dict[str, nn.Module]:
        """Learned maps on the student's side, by name."""
        return {}

    @property
    def from_teacher(self) -> bool:
        """Whether there has to be a cache to learn from."""
        return True

    @property
    def learns_from(self) -> frozenset[PartName]:
        """Parts of a teacher, at least one of which it needs; all, where a class does not say."""
        return frozenset(get_args(PartName))

    @property
    def averaged(self) -> Mapping[str, float]:
        """Caches whose answers are averaged, with their weights; empty for one cache alone."""
        return {}

    @property
    def reads_labels(self) -> bool:
        """Whether it looks at the labels of the corpus."""
        return False

    @property
    def pseudo_labelled(self) -> bool:
        """Whether it makes labels for rows that have none."""
        return False

    @property
    def projection_learning_rate(self) -> float | None:
        """Of the learned maps; None: that of the student."""
        return None

    @abstractmethod
    def compute(self, seen: Seen, pair: Pairing, learned: nn.ModuleDict) -> Tensor:
        """The loss, a scalar; `learned` are the projections."""
