"""Objective `embedding`: the student's sentence embedding matches the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdpipe.errors import UsageError
from kdpipe.objectives.base import Objective, Pairing, Seen
from kdpipe.parts import EMBEDDING
from kdpipe.progress import counted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.parts import Needs, PartName


class MatchEmbedding(Objective):
    """Match embeddings one by one (`mse`, `cosine`) or the similarities within a batch."""

    kind: Literal["embedding"] = "embedding"
    loss: Literal["mse", "cosine", "similarity"] = "cosine"
    """`mse`: squared error, mean over all values; `cosine`: 1 - cosine, mean over rows;
    `similarity`: squared error between the batch's two matrices of cosines."""

    @property
    def learns_from(self) -> frozenset[PartName]:
        """What files must have for it."""
        return frozenset({"embedding"})

    def unit(self, pair: Pairing) -> Literal["rows", "tokens"]:
        """What the loss is a mean over."""
        return "rows"

    def needs(self, pair: Pairing) -> tuple[Needs, Needs]:
        """Both embeddings; raises UsageError where they must be equally wide and are not."""
        mine, theirs = pair.student.embedding, pair.teacher.embedding
        if self.loss != "similarity" and mine != theirs:
            raise UsageError(
                f"objective 'embedding' compares embeddings of {counted(mine, 'number')} with the"
                f" teacher's of {theirs}: use loss: similarity, or embedding_size: {theirs}"
            )
        return frozenset({EMBEDDING}), frozenset({EMBEDDING})

    def compute(self, seen: Seen, pair: Pairing, learned: nn.ModuleDict) -> Tensor:
        """The loss, a scalar."""
        from kdpipe import losses

        function = {
            "mse": losses.mse,
            "cosine": losses.cosine,
            "similarity": losses.similarity_structure,
        }[self.loss]
        return function(seen.student[EMBEDDING], seen.teacher[EMBEDDING])
