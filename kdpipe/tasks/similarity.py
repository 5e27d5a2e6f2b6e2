"""Task `similarity`: do cosines order pairs of sentences as people did (STS files)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdpipe import metrics
from kdpipe.config import Frozen, Name
from kdpipe.errors import ArtifactError
from kdpipe.sources.files import Files
from kdpipe.tasks.subject import embed_texts

if TYPE_CHECKING:
    from kdpipe.tasks.subject import HeldOut, Subject


class Similarity(Frozen):
    """Compare with the judgement of people."""

    kind: Literal["similarity"] = "similarity"
    file: str
    """`.tsv`, `.csv`, `.jsonl`, `.parquet` or `.arrow`: two sentences and a score in each row."""
    columns: tuple[str, str] = ("sentence1", "sentence2")
    """The columns of the sentences."""
    score_column: str = "score"
    """The column of the score: a number, higher for more alike; its scale does not matter."""
    name: Name = "similarity"
    """What the metrics are called by, so that several files can be told apart."""

    @property
    def main(self) -> str:
        """The metric that stands for the task."""
        return f"{self.name}.spearman"

    def files(self) -> list[str]:
        """The file with the pairs."""
        return [self.file]

    def score(self, subject: Subject, held_out: HeldOut, root: Path) -> dict[str, float]:
        """`<name>.spearman` and `<name>.pearson` of cosines and scores.

        Raises:
            ArtifactError: the file or a column is missing, or a score is no number.
            NonFiniteError: the model gives NaN or Inf.
        """
        first, second, scores = self._pairs(root)
        vectors = embed_texts(subject, first + second)
        cosines = metrics.cosine_rows(vectors[: len(first)], vectors[len(first) :])
        return {
            f"{self.name}.spearman": metrics.spearman(cosines, scores),
            f"{self.name}.pearson": metrics.pearson(cosines, scores),
        }

    def _pairs(self, root: Path) -> tuple[list[str], list[str], list[float]]:
        first, second = self.columns
        files = Files(
            kind="files",
            files=(self.file,),
            text_column=first,
            text_pair_column=second,
            label_column=self.score_column,
        )
        texts: list[str] = []
        pairs: list[str] = []
        scores: list[float] = []
        for number, row in enumerate(files.rows(root), 1):
            if not isinstance(row.label, int | float) or row.text_pair is None:
                raise ArtifactError(
                    f"{self.file}: pair {number}: {self.score_column!r} is {row.label!r}, expected"
                    " a number: mend it, or choose another score_column"
                )
            texts.append(row.text)
            pairs.append(row.text_pair)
            scores.append(float(row.label))
        return texts, pairs, scores
