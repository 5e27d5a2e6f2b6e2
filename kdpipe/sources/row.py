"""One row of text on its way into a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Span:
    """Characters of a text, from `begin` to before `end`."""

    begin: int
    end: int


Label = int | float | str | tuple[str, ...] | Span
"""Of several texts: the tag of each word of a row of words, or the set of labels of a text. A span:
the answer to `text` in `text_pair`."""


class Row(NamedTuple):
    """A text, or a pair of texts that the model reads together, with an optional label."""

    text: str
    text_pair: str | None = None
    label: Label | None = None
    words: tuple[str, ...] | None = None
    """Where the text is given as words: `text` is these, joined by blanks."""
    doc_stride: int | None = None
    """Of a question about `text_pair`, which is then read in windows: the tokens of it that a
    window shares with the one before."""
    group: str | None = None
    """What it has in common with rows that belong on the same side of every split."""

    @property
    def whole(self) -> str:
        """Both texts of a pair as one."""
        return self.text if self.text_pair is None else f"{self.text}\0{self.text_pair}"
