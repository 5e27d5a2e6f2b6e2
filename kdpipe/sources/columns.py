"""Which columns of a table become rows of text, and what a value in them may be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from kdpipe.config import Frozen, nearest
from kdpipe.errors import ArtifactError
from kdpipe.sources.row import Label, Row

MAX_TEXT = 16 << 20
"""Bytes of one text in UTF-8."""

Text = Annotated[str, StringConstraints(min_length=1)]


class Columns(Frozen):
    """Which columns of a table become rows of text."""

    text_column: Text | Annotated[tuple[Text, ...], Field(min_length=1)] = "text"
    """The text; of several columns each gives a row of its own."""
    text_pair_column: Text | None = None
    """The second text of a pair that the model reads together; only with a single `text_column`."""
    label_column: Text | None = None
    """Number or text, kept beside the row; null, NaN and empty are no label."""

    @model_validator(mode="after")
    def _pair_has_one_text(self) -> Columns:
        if self.text_pair_column is not None and len(self.text_columns) > 1:
            raise ValueError(
                "key 'text_pair_column' needs a single 'text_column', found"
                f" {len(self.text_columns)}: {', '.join(self.text_columns)}"
            )
        return self

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The text columns, also where there is one."""
        return (self.text_column,) if isinstance(self.text_column, str) else self.text_column

    @property
    def needed(self) -> list[str]:
        """All columns to read, each once: text, pair, label."""
        names = [*self.text_columns, self.text_pair_column, self.label_column]
        return list(dict.fromkeys(name for name in names if name is not None))

    def convert(self, record: Mapping[str, Any], where: str) -> Iterator[Row]:
        """The rows of one record; null and blank texts, and pairs with such a text, give none.

        Raises ArtifactError, beginning with `where`, for a missing column or an impossible value.
        """
        for column in self.needed:
            if column not in record:
                raise ArtifactError(f"{where}: no column {column!r}: {nearest(column, [*record])}")
        label = None if self.label_column is None else _label(record, self.label_column, where)
        texts = [_text(record, column, where) for column in self.text_columns]
        if self.text_pair_column is None:
            yield from (Row(text, None, label) for text in texts if text is not None)
        elif texts[0] is not None:
            pair = _text(record, self.text_pair_column, where)
            if pair is not None:
                yield Row(texts[0], pair, label)


def _text(record: Mapping[str, Any], column: str, where: str) -> str | None:
    value = record[column]
    if value is None:
        return None
    if not isinstance(value, str):
        raise ArtifactError(
            f"{where}: column {column!r} is {type(value).__name__}, not text: choose another"
        )
    size = _size(value, column, where)
    if size > MAX_TEXT:
        raise ArtifactError(
            f"{where}: {size} bytes in column {column!r}, a text has at most {MAX_TEXT}: cut it up"
        )
    return value if value.strip() else None


def _label(record: Mapping[str, Any], column: str, where: str) -> Label | None:
    value = record[column]
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
