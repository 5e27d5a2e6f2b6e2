"""Text in a data set of the Hugging Face hub, streamed by the optional package `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from kdpipe.errors import ArtifactError, StorageError, UsageError, explain
from kdpipe.sources.columns import Columns, Text
from kdpipe.sources.formats import first_line
from kdpipe.sources.row import Row


class HubDataset(Columns):
    """One split of a data set; code that comes with a data set is never run."""

    kind: Literal["hub"]
    dataset: Text
    """Id on the hub, such as `owner/name`."""
    name: Text | None = None
    """Which configuration, where the data set has several."""
    split: Text = "train"
    revision: Text | None = None
    """A commit, tag or branch; None is the default branch."""

    def rows(self, root: Path) -> Iterator[Row]:
        """Rows in the order of the data set, streamed.

        Raises UsageError without the package, ArtifactError for what cannot be reached or read, is
        empty, or has not the columns.
        """
        found = False
        for number, record in enumerate(self._records(), 1):
            for row in self.convert(record, f"{self._where}: row {number}"):
                found = True
                yield row
        if not found:
            raise ArtifactError(f"{self._where} is empty: no row has text; choose another split")

    def state(self, root: Path) -> str:
        """What the text depends on: the revision. A branch that moves is not noticed: pin it."""
        return f"revision {self.revision}"

    def paths(self, root: Path) -> list[str]:
        """Nothing: the text is not on this disk."""
        return []

    def _names(self, found: Any) -> list[str] | None:
        """What the numbers in lists of labels stand for, where the data set says so."""
        features = getattr(found, "features", None) or {}
        kind = getattr(features.get(self.label_column), "feature", None)
        return getattr(kind, "names", None)

    @property
    def _where(self) -> str:
        parts = [self.dataset, self.name, self.split, self.revision and f"revision {self.revision}"]
        return f"data set {', '.join(part for part in parts if part)}"

    def _records(self) -> Iterator[Mapping[str, Any]]:
        try:
            from datasets import load_dataset
            from datasets.exceptions import DatasetsError
        except ImportError:
            raise UsageError(
                "source hub needs the package 'datasets': pip install 'kdpipe[data]'"
            ) from None
        try:
            found = load_dataset(
                self.dataset,
                self.name,
                split=self.split,
                revision=self.revision,
                streaming=True,
            )
            names = self._names(found)
            for record in found:
                yield _named(record, self.label_column, names) if names else record
        except (DatasetsError, OSError, ValueError, RuntimeError) as error:
            if isinstance(explain(error), StorageError):
                raise
            raise ArtifactError(
                f"{self._where} cannot be read ({first_line(error)}): check its names, and that the"
                " hub can be reached"
            ) from None


def _named(record: Mapping[str, Any], column: str | None, names: list[str]) -> Mapping[str, Any]:
    """A record whose list of labels has names in the place of their numbers."""
    labels = record.get(str(column))
    if not isinstance(labels, list):
        return record
    known = dict(enumerate(names))
    return {**record, str(column): [known.get(label, label) for label in labels]}
