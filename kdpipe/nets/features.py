"""What can be read off a word as it is written: its characters and the shape of its capitals.

Both are those of NLP Architect's tagger, except for the ids of characters: there 'a' has the id of
padding, here padding has an id of its own.

Legend: N words, C characters of a word that are looked at.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SYMBOLS = string.ascii_letters + " .,;'"
"""The 57 characters that are told apart, with the ids 1 to 57."""
UNKNOWN_CHARACTER = len(SYMBOLS) + 1
"""The id of every other character: digits, hyphens, letters with accents."""
MAX_CHARACTERS = 12
"""How many characters of a word are looked at, from its beginning."""
SHAPES = 4
"""How many shapes there are, with the ids 1 to 4."""


class _Table(dict[int, int]):
    def __missing__(self, key: int) -> int:
        return UNKNOWN_CHARACTER


_TABLE = _Table({ord(symbol): number for number, symbol in enumerate(SYMBOLS, 1)})


def characters_of(word: str) -> list[int]:
    """The ids of all characters of a word; 0, which is padding, is never among them."""
    return [_TABLE[ord(character)] for character in word]


def shape_of(word: str) -> int:
    """1: capitals only, 2: begins with one, 3: has one further in, 4: has none."""
    if word and all(character.isupper() for character in word):
        return 1
    if word[:1].isupper():
        return 2
    return 3 if any(character.isupper() for character in word) else 4


def character_array(
    words: Sequence[str], max_characters: int = MAX_CHARACTERS
) -> npt.NDArray[np.int64]:
    """[N, C]: `characters_of` each word, cut or padded to C = `max_characters`."""
    # Ids are below 256, so a word translated to ids is a string of as many bytes.
    rows = [
        word[:max_characters].translate(_TABLE).encode("latin-1").ljust(max_characters, b"\0")
        for word in words
    ]
    flat = np.frombuffer(b"".join(rows), np.uint8)
    return flat.reshape(len(words), max_characters).astype(np.int64)


def spelling_array(words: Sequence[str]) -> npt.NDArray[np.uint8]:
    """[N, 1 + C]: the shape and then the characters of each word, all ids of both below 256."""
    shapes = shape_array(words)[:, None]
    return np.concatenate([shapes, character_array(words)], 1).astype(np.uint8)


def shape_array(words: Sequence[str]) -> npt.NDArray[np.int64]:
    """[N]: `shape_of` each word."""
    return np.fromiter((shape_of(word) for word in words), np.int64, len(words))
