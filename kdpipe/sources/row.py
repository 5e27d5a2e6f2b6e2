"""One row of text on its way into a corpus."""

from __future__ import annotations

from typing import NamedTuple

Label = int | float | str


class Row(NamedTuple):
    """A text, or a pair of texts that the model reads together, with an optional label."""

    text: str
    text_pair: str | None = None
    label: Label | None = None
