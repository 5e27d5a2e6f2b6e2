"""Task `fidelity`: how closely a model's space follows the teacher's, on rows without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from kdpipe import metrics
from kdpipe.config import Frozen
from kdpipe.errors import ArtifactError
from kdpipe.tasks.subject import embed_rows

if TYPE_CHECKING:
    from kdpipe.tasks.subject import HeldOut, Subject

FEWEST_ROWS = 3
"""Two rows are one pair, which has no order to agree on."""
NEIGHBOURS = 10
"""Of a row, whose being the same is measured."""


class Fidelity(Frozen):
    """Compare with the teacher's embeddings."""

    kind: Literal["fidelity"] = "fidelity"
    max_rows: PositiveInt = 5000
    """Held-out rows to compare, evenly spread over the corpus where there are more."""

    @property
    def main(self) -> str:
        """The metric that stands for the task."""
        return "fidelity.spearman"

    def files(self) -> list[str]:
        """None: the corpus and the cache have all that is needed."""
        return []

    def score(self, subject: Subject, held_out: HeldOut, root: Path) -> dict[str, float]:
        """At most three numbers, 1.0 for the teacher itself.

        `fidelity.spearman`: are pairs of rows ordered alike by their cosines;
        `fidelity.recall_at_10`: share of the teacher's 10 nearest rows that are the model's too,
            where there are more than 11 rows;
        `fidelity.cosine`: mean cosine to the teacher's vectors, where both have the same width.

        Raises:
            ArtifactError: fewer than 3 held-out rows.
            NonFiniteError: the model gives NaN or Inf.
        """
        rows = len(held_out.tokens)
        if min(rows, self.max_rows) < FEWEST_ROWS:
            raise ArtifactError(
                f"fidelity needs at least {FEWEST_ROWS} held-out rows, the corpus has {rows} and"
                f" max_rows is {self.max_rows}: raise 'validation' of the corpus, or max_rows"
            )
        sample = held_out.spread(self.max_rows)
        teacher = sample.teacher
        if teacher is None:
            raise ArtifactError(
                "fidelity needs the teacher's embeddings in the first cache: add a target of kind:"
                " embedding"
            )
        vectors = embed_rows(subject, sample)
        scores = {"fidelity.spearman": metrics.pair_spearman(vectors, teacher)}
        if len(vectors) > NEIGHBOURS + 1:  # else every other row is among the nearest
            recall = metrics.neighbour_recall(vectors, teacher, NEIGHBOURS)
            scores[f"fidelity.recall_at_{NEIGHBOURS}"] = recall
        if vectors.shape[1] == teacher.shape[1]:
            scores["fidelity.cosine"] = float(metrics.cosine_rows(vectors, teacher).mean())
        return scores
