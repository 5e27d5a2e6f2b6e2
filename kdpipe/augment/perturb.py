"""Noise on the words of a row: the five perturbations of TextBrewer, as pure functions.

All take the words (or tokens) of one row and a generator, change neither but for the generator's
state, and also take rows of no word. Defaults are TextBrewer's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MASK = "[MASK]"
LENGTHS = (1, 2, 3, 4, 5)
EVENLY = (0.2, 0.2, 0.2, 0.2, 0.2)
SELDOM = (0.9, 0.1, 0.0, 0.0, 0.0)
_ORDERS = ((1, 0), (2, 1, 0), (2, 0, 1), (1, 2, 0))
"""What can become of words a b c: ba, cba, cab, bca."""


def masking(
    words: Sequence[str], rng: np.random.Generator, *, probability: float = 0.1, mask: str = MASK
) -> list[str]:
    """Each word becomes `mask` with `probability`, independently of the others."""
    struck = rng.random(len(words)) < probability
    return [mask if gone else word for word, gone in zip(words, struck, strict=True)]


def deleting(
    words: Sequence[str], rng: np.random.Generator, *, probability: float = 0.1
) -> list[str]:
    """Each word is left out with `probability`, independently; none may be left."""
    struck = rng.random(len(words)) < probability
    return [word for word, gone in zip(words, struck, strict=True) if not gone]


def n_gram_sampling(
    words: Sequence[str],
    rng: np.random.Generator,
    *,
    lengths: Sequence[int] = LENGTHS,
    probabilities: Sequence[float] = EVENLY,
) -> list[str]:
    """Words in a row, so many as a draw from `lengths` says, from a place drawn evenly.

    A row that is shorter stays whole. Raises ValueError where `probabilities` do not fit `lengths`
    or do not add up to 1.
    """
    length = min(int(rng.choice(lengths, p=probabilities)), len(words))
    start = int(rng.integers(len(words) - length + 1))
    return list(words[start : start + length])


def short_disorder(
    words: Sequence[str],
    rng: np.random.Generator,
    *,
    probabilities: Sequence[float] = SELDOM,
) -> list[str]:
    """From left to right, two or three words change places: abc stays, or is bac, cba, cab, bca.

    `probabilities` are of these five in their order. What stays moves on by one word, what changes
    by the two or three that it changed. The last two words are swapped by any change. Raises
    ValueError where the probabilities are not five that add up to 1.
    """
    drawn = rng.choice(1 + len(_ORDERS), size=len(words), p=probabilities)
    found, place = list(words), 0
    while place < len(words) - 1:
        if drawn[place] == 0:
            place += 1
            continue
        order = _ORDERS[drawn[place] - 1 if place < len(words) - 2 else 0]
        found[place : place + len(order)] = [words[place + step] for step in order]
        place += len(order)
    return found


def long_disorder(
    words: Sequence[str],
    rng: np.random.Generator,
    *,
    probability: float = 0.1,
    length: float = 20,
) -> list[str]:
    """From left to right, the two halves of `length` words change places with `probability`.

    What stays moves on by one word, what changes by the whole length. A length of up to 1 is a
    share of the row; it is cut to a whole number of words, and made even by one word more.
    """
    whole = (int(length if length > 1 else length * len(words)) + 1) // 2 * 2
    drawn = rng.random(len(words)) < probability
    found, place = list(words), 0
    while whole and place <= len(words) - whole:
        if not drawn[place]:
            place += 1
            continue
        middle, end = place + whole // 2, place + whole
        found[place:end] = [*words[middle:end], *words[place:middle]]
        place = end
    return found
