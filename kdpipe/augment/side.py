"""One text of a row, and how it is written with other words in some places."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from kdpipe.augment.stop_words import STOP_WORDS

Span = tuple[int, int]
"""First character of a word, and the one after its last."""

WORD = re.compile(r"[^\W\d_]+")
"""Letters of any language and nothing else."""
# Neither a digit nor a combining accent may follow: `2nd` and half of a letter are no words.
_PLACE = re.compile(r"(?<![^\W_])[^\W\d_]+(?![^\W_]|[\u0300-\u036f])")


class Side(NamedTuple):
    """A text of its own, or the first or second of a pair."""

    text: str
    words: tuple[str, ...] | None = None
    """Where the text is given as words: `text` is these, joined by blanks."""

    def places(self) -> list[Span]:
        """Where words stand that may be replaced: letters alone, and no stop words."""
        found = _PLACE.finditer(self.text)
        return [match.span() for match in found if match[0].lower() not in STOP_WORDS]

    def put(self, chosen: Mapping[Span, str]) -> Side:
        """The same text with other words at some of its places; all between them stays."""
        if self.words is None:
            return Side(_put(self.text, 0, chosen))
        words, start = [], 0
        for word in self.words:
            words.append(_put(word, start, chosen))
            start += len(word) + 1
        return Side(" ".join(words), tuple(words))


def _put(text: str, first: int, chosen: Mapping[Span, str]) -> str:
    """`text`, whose first character is number `first` of the whole, with what is chosen in it."""
    parts, done = [], 0
    for (start, end), word in sorted(chosen.items()):
        if first <= start and end <= first + len(text):
            parts += [text[done : start - first], word]
            done = end - first
    return "".join([*parts, text[done:]])
