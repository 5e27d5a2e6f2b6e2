"""Which columns of a table become rows of text, and what a value in them may be."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints, model_validator

from kdpipe.config import Frozen, nearest
from kdpipe.errors import ArtifactError
from kdpipe.progress import counted
from kdpipe.sources.row import Label, Row

MAX_TEXT = 16 << 20
"""Bytes of one text in UTF-8."""

Text = Annotated[str, StringConstraints(min_length=1)]


class ColumnError(ArtifactError):
    """A column that is not there."""

    def __init__(self, where: str, column: str, there: Iterable[str]) -> None:
        super().__init__(f"{where}: no column {column!r}: {nearest(column, [*there])}")
        self.column = column


class Columns(Frozen):
    """Which columns of a table become rows of text."""

    optional: ClassVar[frozenset[str]] = frozenset()
    """Columns that are read where they are there."""

    text_column: Text | Annotated[tuple[Text, ...], Field(min_length=1)] = "text"
    """The text, or a list of its words; of several columns each gives a row of its own."""
    text_pair_column: Text | None = None
    """The second text of a pair that the model reads together; only with a single `text_column`."""
    label_column: Text | None = None
    """Number, text, or list of texts (the tags of a list of words, the set of labels of a text),
    kept beside the row; null, NaN and empty text are no label."""
    label_separator: Text | None = None
    """Cuts the text of a label into the set of labels; None: it is one label."""
    group_column: Text | None = None
    """Rows with the same text or number here are on the same side of every split; None: what tells
    rows apart is their text."""
    split_words: bool = False
    """Cut texts into words at blanks; the label stays that of the text."""

    @model_validator(mode="after")
    def _keys_fit(self) -> Columns:
        if self.text_pair_column is not None and len(self.text_columns) > 1:
            raise ValueError(
                "key 'text_pair_column' needs a single 'text_column', found"
                f" {len(self.text_columns)}: {', '.join(self.text_columns)}"
            )
        if self.text_pair_column is not None and self.split_words:
            raise ValueError("key 'split_words' is for single texts: take out 'text_pair_column'")
        if self.label_separator is not None and self.label_column is None:
            raise ValueError("key 'label_separator' needs 'label_column', whose text it cuts")
        return self

    @functools.cached_property
    def text_columns(self) -> tuple[str, ...]:
        """The text columns, also where there is one."""
        return (self.text_column,) if isinstance(self.text_column, str) else self.text_column

    @functools.cached_property
    def needed(self) -> list[str]:
        """All columns to read, each once: text, pair, label, group."""
        names = [
            *self.text_columns,
            self.text_pair_column,
            self.label_column,
            self.group_column,
        ]
        return list(dict.fromkeys(name for name in names if name is not None))

    def convert(self, record: Mapping[str, Any], where: str) -> Iterator[Row]:
        """The rows of one record; null and blank texts, and pairs with such a text, give none.

        Raises ArtifactError, beginning with `where`, for a missing column or an impossible value.
        """
        for column in self.needed:
            if column not in record:
                raise ColumnError(where, column, record)
        label = None if self.label_column is None else self._label(record, where)
        rows = [self._row(record, column, label, where) for column in self.text_columns]
        if self.group_column is not None:
            group = self._group(record, where)
            rows = [None if row is None else row._replace(group=group) for row in rows]
        if self.text_pair_column is None:
            yield from (row for row in rows if row is not None)
        elif rows[0] is not None:
            pair = text_of(record[self.text_pair_column], self.text_pair_column, where)
            if rows[0].words is not None:
                raise ArtifactError(
                    f"{where}: column {self.text_column!r} holds a list of words, which is no part"
                    " of a pair: take out text_pair_column"
                )
            if pair is not None:
                yield rows[0]._replace(text_pair=pair)

    def _row(
        self, record: Mapping[str, Any], column: str, label: Label | None, where: str
    ) -> Row | None:
        value = record[column]
        words = None
        if isinstance(value, list):
            words = _words(value, column, where)
            value = " ".join(words)
        text = text_of(value, column, where)
        if text is None:
            return None
        if words is not None and isinstance(label, tuple) and len(label) != len(words):
            raise ArtifactError(
                f"{where}: {counted(len(words), 'word')} in column {column!r}, but"
                f" {counted(len(label), 'tag')} in column {self.label_column!r}: give each word one"
            )
        if words is None and isinstance(label, tuple):
            label = tuple(sorted(set(label)))
        if words is None and self.split_words:
            words = tuple(text.split())
            text = " ".join(words)
        return Row(text, None, label, words)

    def _group(self, record: Mapping[str, Any], where: str) -> str | None:
        column = str(self.group_column)
        value = record[column]
        if isinstance(value, str | int):
            text = str(value)
            return text if _size(text, column, where) else None
        if value is None:
            return None
        raise ArtifactError(
            f"{where}: column {column!r} is {type(value).__name__}, neither text nor an integer:"
            " choose another group_column"
        )

    def _label(self, record: Mapping[str, Any], where: str) -> Label | None:
        column = str(self.label_column)
        value = record[column]
        if isinstance(value, str) and self.label_separator is not None:
            parts = [part.strip() for part in value.split(self.label_separator)]
            value = [part for part in parts if part] or None
        if isinstance(value, list):
            return tuple(_name(part, value, column, where) for part in value)
        return _scalar(value, column, where)


def text_of(value: Any, column: str, where: str) -> str | None:
    """A value as text, None where it is null or blank; raises ArtifactError for what is no text."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ArtifactError(
            f"{where}: column {column!r} is {type(value).__name__}, not text: choose another"
        )
    # The size of plain ASCII is known without encoding it.
    size = len(value) if value.isascii() else _size(value, column, where)
    if size > MAX_TEXT:
        raise ArtifactError(
            f"{where}: {size} bytes in column {column!r}, a text has at most {MAX_TEXT}: cut it up"
        )
    return value if value.strip() else None


def _words(values: list[Any], column: str, where: str) -> tuple[str, ...]:
    for value in values:
        if not isinstance(value, str):
            raise ArtifactError(
                f"{where}: column {column!r} holds a list with {type(value).__name__} in it, not"
                " words: choose another"
            )
    return tuple(values)


def _name(part: Any, label: list[Any], column: str, where: str) -> str:
    """One of several labels; numbers of classes are told by their digits."""
    if isinstance(part, int):
        return str(int(part))
    if isinstance(part, str) and part.strip() and _size(part, column, where):
        return part
    raise ArtifactError(
        f"{where}: label {str(label)[:40]} in column {column!r} is a list of more than texts and"
        " integers: mend it, or choose another label_column"
    )


def _scalar(value: Any, column: str, where: str) -> int | float | str | None:
    if isinstance(value, str) and _size(value, column, where):
        return value
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ArtifactError(
        f"{where}: label {str(value)[:40]} in column {column!r} is neither text nor a finite number"
        " of 64 bits: mend it, or choose another label_column"
    )


def _size(text: str, column: str, where: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        half = "half of a surrogate pair, which is no text"
        raise ArtifactError(f"{where}: column {column!r} has {half}: mend it") from None
