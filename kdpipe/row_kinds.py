"""What the rows of a corpus have in common: pairs or not, words or not, one type of label."""

from __future__ import annotations

import re

import pyarrow as pa

from kdpipe import blocks
from kdpipe.errors import ArtifactError
from kdpipe.sources import Row, Span
from kdpipe.sources.row import Label

MOST_LABELS = 10_000
"""Different labels of a corpus."""
_LABELS = {
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    tuple: blocks.list_of(pa.string()),
    Span: blocks.list_of(pa.int32()),
}
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)


class Kinds:
    """What the rows of a corpus have in common, and which labels there are."""

    def __init__(self) -> None:
        self.pairs: bool | None = None
        self.words: bool | None = None
        self._strides = set[int | None]()
        self.label: pa.DataType | None = None
        self._labels: set[str] = set()

    def add(self, rows: list[Row]) -> None:
        """Raises ArtifactError for rows that are not like those before, or too many labels."""
        seen = {
            (row.text_pair is not None, row.words is not None, row.doc_stride, type(row.label))
            for row in rows
        }
        pairs = {pair for pair, *_ in seen} | {self.pairs} - {None}
        words = {word for _, word, *_ in seen} | {self.words} - {None}
        if len(pairs) > 1:
            raise ArtifactError("some rows are pairs and some are not: make two corpora of them")
        if len(words) > 1:
            raise ArtifactError(
                "some rows are words and some plain text: set split_words: true for the text, or"
                " make two corpora of them"
            )
        self._strides |= {stride for _, _, stride, _ in seen}
        if len(self._strides) > 1:
            raise ArtifactError(
                "some rows are questions in windows and some are not, or doc_stride differs: make"
                " two corpora of them"
            )
        types = {kind for *_, kind in seen} - {type(None)}
        found = {_LABELS[kind] for kind in types} | ({self.label} - {None})
        if len(found) > 1:
            kinds = sorted("lists" if pa.types.is_list(kind) else str(kind) for kind in found)
            raise ArtifactError(
                f"labels are {' and '.join(kinds)}: give all sources labels of one type"
            )
        self.pairs, self.words = pairs.pop(), words.pop()
        if found:
            self.label = found.pop()
        for row in rows if types else ():
            self._name(row.label)

    @property
    def labels(self) -> tuple[str, ...]:
        """The different labels; numbers in their order, but for fractions, which are no names."""
        numbers = all(_INTEGER.fullmatch(label) for label in self._labels)
        return tuple(sorted(self._labels, key=lambda x: (int(x) if numbers else 0, x)))

    def _name(self, label: Label | None) -> None:
        if isinstance(label, tuple):
            self._labels.update(label)
        elif isinstance(label, str | int):
            self._labels.add(str(label))
        if len(self._labels) > MOST_LABELS:
            raise ArtifactError(
                f"more than {MOST_LABELS:,} different labels, such as {str(label)[:40]}: choose"
                " another label_column"
            )
