"""Tasks with a label for each row: `classification`, `multi_label` and `regression`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from kdpipe import metrics
from kdpipe.config import Frozen, Name, nearest
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.parts import LOGITS, some
from kdpipe.progress import counted
from kdpipe.sources.columns import Text
from kdpipe.sources.files import Files
from kdpipe.sources.folders import Folders
from kdpipe.sources.row import Label, Row
from kdpipe.tasks.subject import read, say

if TYPE_CHECKING:
    from kdpipe.tasks.subject import HeldOut, Subject, Vectors


class Labelled(Frozen):
    """A file with a text and a label in each row."""

    kind: str
    file: str
    """`.tsv`, `.csv`, `.jsonl`, `.parquet` or `.arrow`."""
    text_column: Text = "text"
    text_pair_column: Text | None = None
    """The second text of a pair that the model reads together."""
    label_column: Text = "label"

    def files(self) -> list[str]:
        """The file with the labels."""
        return [self.file]

    def rows(self, root: Path) -> list[Row]:
        """All rows; raises ArtifactError for one without a label, or a file without any."""
        files = Files(
            kind="files",
            files=(self.file,),
            text_column=self.text_column,
            text_pair_column=self.text_pair_column,
            label_column=self.label_column,
            label_separator=self._separator,
        )
        rows = list(files.rows(root))
        for number, row in enumerate(rows, start=1):
            if row.label is None:
                raise ArtifactError(
                    f"{self.file}: row {number} has nothing in column {self.label_column!r}: mend"
                    " it, or choose another label_column"
                )
        return rows

    @property
    def _separator(self) -> str | None:
        return None


class Classification(Labelled):
    """One class for each row."""

    kind: Literal["classification"]
    positive_label: Text | int | None = None
    """Whose F1 is told beside the others, as GLUE does for MRPC and QQP; None: of no class."""
    name: Name = "classification"
    """What the metrics are called by, so that several files can be told apart."""

    def rows(self, root: Path) -> list[Row]:
        """As of other tasks; of a folder of folders, as in IMDB, all `.txt` with these for label.

        Raises ArtifactError for a row without a label, or a file without any.
        """
        if any((root / self.file).glob("*/*.txt")):
            return [*Folders(kind="folders", files=(f"{self.file}/*/*.txt",)).rows(root)]
        return super().rows(root)

    @property
    def main(self) -> str:
        """The metric that stands for the task."""
        return f"{self.name}.accuracy"

    def score(self, subject: Subject, held_out: HeldOut, root: Path) -> dict[str, float]:
        """`<name>.accuracy`, `.macro_f1`, `.matthews`, and `.f1` where a class is named for it.

        Nothing for a model without such a head.

        Raises:
            UsageError: `positive_label` is no class of the model.
            ArtifactError: the file or a column is missing, or a label is no class of the model.
            NonFiniteError: the model gives NaN or Inf.
        """
        if subject.encoder.dims.problem != "single_label_classification":
            return {}
        rows = self.rows(root)
        classes = subject.encoder.dims.classes
        gold = np.array([_place(row.label, classes, self.file) for row in rows])
        positive = self._positive(classes)
        said = logits_of(subject, rows).argmax(1)
        found = {
            f"{self.name}.accuracy": metrics.accuracy(said, gold),
            f"{self.name}.macro_f1": metrics.macro_f1(said, gold),
            f"{self.name}.matthews": metrics.matthews(said, gold),
        }
        if positive is not None:
            found[f"{self.name}.f1"] = metrics.binary_f1(said, gold, positive)
        return found

    def _positive(self, classes: tuple[str, ...]) -> int | None:
        """Which class the F1 is of."""
        if self.positive_label is None:
            return None
        if str(self.positive_label) not in classes:
            raise UsageError(
                f"positive_label {str(self.positive_label)!r} of task {self.name!r} is none of the"
                f" model's {counted(len(classes), 'class', 'classes')}:"
                f" {nearest(str(self.positive_label), [*classes])}"
            )
        return classes.index(str(self.positive_label))


class MultiLabel(Labelled):
    """Any number of classes for each row."""

    kind: Literal["multi_label"]
    label_separator: Text | None = None
    """Between the labels of a row, where the column is text and not a list."""
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """The probability above which a class is said to be there."""
    name: Name = "multi_label"
    """What the metrics are called by, so that several files can be told apart."""

    @property
    def main(self) -> str:
        """The metric that stands for the task."""
        return f"{self.name}.micro_f1"

    def score(self, subject: Subject, held_out: HeldOut, root: Path) -> dict[str, float]:
        """`<name>.micro_f1`, `.macro_f1` and `.accuracy` (all of a row's labels right).

        Raises:
            ArtifactError: the file or a column is missing, or a label is no class of the model.
            NonFiniteError: the model gives NaN or Inf.
        """
        if subject.encoder.dims.problem != "multi_label_classification":
            return {}
        rows, classes = self.rows(root), subject.encoder.dims.classes
        gold = np.zeros((len(rows), len(classes)), dtype=bool)
        for number, row in enumerate(rows):
            names = row.label if isinstance(row.label, tuple) else (row.label,)
            gold[number, [_place(name, classes, self.file) for name in names]] = True
        said = logits_of(subject, rows) > np.log(self.threshold / (1.0 - self.threshold))
        return {
            f"{self.name}.micro_f1": metrics.micro_f1(said, gold),
            f"{self.name}.macro_f1": metrics.macro_f1(said, gold),
            f"{self.name}.accuracy": metrics.accuracy(said, gold),
        }

    @property
    def _separator(self) -> str | None:
        return self.label_separator


class Regression(Labelled):
    """A number for each row."""

    kind: Literal["regression"]
    label_column: Text = "score"
    name: Name = "regression"
    """What the metrics are called by, so that several files can be told apart."""

    @property
    def main(self) -> str:
        """The metric that stands for the task."""
        return f"{self.name}.spearman"

    def score(self, subject: Subject, held_out: HeldOut, root: Path) -> dict[str, float]:
        """`<name>.spearman` and `.pearson`; nothing for a model without such a head.

        Raises:
            ArtifactError: the file or a column is missing, or a label is no number.
            NonFiniteError: the model gives NaN or Inf.
        """
        if subject.encoder.dims.problem != "regression":
            return {}
        rows = self.rows(root)
        gold = [row.label for row in rows]
        numbers = [float(label) for label in gold if isinstance(label, int | float)]
        if len(numbers) < len(gold):
            raise ArtifactError(
                f"{self.file}: column {self.label_column!r} has labels that are no numbers"
            )
        said = logits_of(subject, rows)[:, 0]
        return {
            f"{self.name}.spearman": metrics.spearman(said, numbers),
            f"{self.name}.pearson": metrics.pearson(said, numbers),
        }


def logits_of(subject: Subject, rows: list[Row]) -> Vectors:
    """[R, C]: what the head says about rows."""
    return say(subject, read(subject, rows)[0], LOGITS)


def _place(label: Label | None, classes: tuple[str, ...], file: str) -> int:
    try:
        return classes.index(str(label))
    except ValueError:
        raise ArtifactError(
            f"{file}: label {str(label)!r} is none of the model's"
            f" {counted(len(classes), 'class', 'classes')} ({some(classes)}): choose the right"
            " label_column"
        ) from None
