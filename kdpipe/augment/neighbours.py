"""The nearest words to a word, by the cosine of their vectors in a file such as GloVe's.

Legend: V words of the vocabulary, D values of a vector.
"""

from __future__ import annotations

import functools
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdpipe.augment.side import WORD
from kdpipe.nets.vectors import read_vectors


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The most frequent words of a file of vectors."""

    words: list[str]
    """V, the most frequent first."""
    vectors: npt.NDArray[np.float32]
    """[V, D], each of length 1 (or 0)."""

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    @functools.cache  # noqa: B019 - the vectors live as long as their process
    def nearest(self, word: str, count: int) -> list[str]:
        """Those of the `count` nearest other words that are letters alone, nearest first.

        A word that is not there is looked for in lower case; none where that is not there either.
        """
        own = self._numbers.get(word, self._numbers.get(word.lower()))
        if own is None:
            return []
        # One by one: then what is near to a word does not depend on who asks beside it.
        cosines = self.vectors @ self.vectors[own]
        cosines[own] = -np.inf
        order = np.argsort(-cosines, kind="stable")[: min(count, len(self.words) - 1)]
        near = (self.words[number] for number in order)
        return [found for found in near if WORD.fullmatch(found)]


def read_neighbours(path: Path, vocabulary: int) -> Neighbours:
    """The first `vocabulary` words of a file, which in such files are the most frequent ones.

    Raises ArtifactError, with the number of the line, for what is no file of vectors.
    """
    words = _first_words(path, vocabulary)
    values = read_vectors(path, words).values
    lengths = np.linalg.norm(values, axis=1, keepdims=True).clip(min=np.finfo(np.float32).tiny)
    return Neighbours(words, (values / lengths).astype(np.float32))


def _first_words(path: Path, count: int) -> list[str]:
    """The first `count` words of a file, each once; those that are not UTF-8 are left out."""
    # Of the whole file, since this is also what finds its mistakes.
    width = read_vectors(path, []).values.shape[1]
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        words: dict[str, None] = {}
        for line in file:
            word, *values = line.rsplit(None, width) or [b""]
            spelling = word.decode("utf-8", "replace")
            if len(values) == width and "\ufffd" not in spelling:
                words[spelling] = None
            if len(words) == count:
                break
    return [*words]
