"""Objective `embedding`: the student's sentence embedding matches the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdpipe.objectives.base import Objective
from kdpipe.parts import EMBEDDING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.activations import Activations, Dims
    from kdpipe.parts import Needs


class MatchEmbedding(Objective):
    """Match embeddings one by one (`mse`, `cosine`) or the similarities within a batch."""

    kind: Literal["embedding"] = "embedding"
    loss: Literal["mse", "cosine", "similarity"] = "cosine"
    """`mse`: squared error, mean over all values; `cosine`: 1 - cosine, mean over rows;
    `similarity`: squared error between the batch's two matrices of cosines."""

    @property
    def unit(self) -> Literal["rows", "tokens"]:
        """What the loss is a mean over."""
        return "rows"

    @property
    def equal_widths(self) -> bool:
        """Whether embeddings of student and teacher must be equally wide."""
        return self.loss != "similarity"

    def needs(self) -> tuple[Needs, Needs]:
        """What is needed of the student and of the teacher."""
        return frozenset({EMBEDDING}), frozenset({EMBEDDING})

    def projections(self, student: Dims, teacher: Dims) -> dict[str, nn.Module]:
        """None: a student of another width has a dense layer of its own, which it keeps."""
        return {}

    def compute(
        self, student: Activations, teacher: Activations, projections: nn.ModuleDict
    ) -> Tensor:
        """The loss, a scalar."""
        from kdpipe import losses

        function = {
            "mse": losses.mse,
            "cosine": losses.cosine,
            "similarity": losses.similarity_structure,
        }[self.loss]
        return function(student[EMBEDDING], teacher[EMBEDDING])
