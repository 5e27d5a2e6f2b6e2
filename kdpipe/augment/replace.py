"""TinyBERT's word replacement: each word has candidates, and some words become one of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kdpipe.augment.side import Side, Span

CANDIDATES = 15
"""M of the paper."""
PROBABILITY = 0.4
"""p of the paper."""


def choose(
    candidates: Mapping[Span, Sequence[str]], probability: float, rng: np.random.Generator
) -> dict[Span, str]:
    """For each place, with `probability`, one of its candidates, all of them equally likely."""
    drawn = rng.random(len(candidates)) < probability
    return {
        span: words[int(rng.integers(len(words)))]
        for (span, words), now in zip(candidates.items(), drawn, strict=True)
        if now
    }


def replacements(
    side: Side,
    candidates: Mapping[Span, Sequence[str]],
    probability: float,
    rng: np.random.Generator,
) -> Iterator[Side]:
    """Copies without end of a text; none where no word has a candidate.

    A candidate gets a capital where its word has one, and may be the word itself.
    """
    known = {
        (start, end): [_like(side.text[start:end], word) for word in words]
        for (start, end), words in sorted(candidates.items())
        if words
    }
    while known:
        yield side.put(choose(known, probability, rng))


def _like(model: str, word: str) -> str:
    if word.lower() == model.lower():
        return model
    return word[:1].upper() + word[1:] if model.istitle() else word
