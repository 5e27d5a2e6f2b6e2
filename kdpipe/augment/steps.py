"""TextBrewer's perturbations as a pipeline file can ask for them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

from kdpipe.augment import perturb
from kdpipe.config import Frozen

if TYPE_CHECKING:
    import numpy as np

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Text = Annotated[str, StringConstraints(min_length=1)]


class Masking(Frozen):
    """Hide words."""

    kind: Literal["masking"]
    probability: Probability = 0.1
    """For each word."""
    mask: Text = perturb.MASK
    """What then stands there: a token that the corpus' tokenizer knows."""

    def apply(self, words: list[str], rng: np.random.Generator) -> list[str]:
        """The words with some of them hidden."""
        return perturb.masking(words, rng, probability=self.probability, mask=self.mask)


class Deleting(Frozen):
    """Leave words out."""

    kind: Literal["deleting"]
    probability: Probability = 0.1
    """For each word."""

    def apply(self, words: list[str], rng: np.random.Generator) -> list[str]:
        """The words that are left."""
        return perturb.deleting(words, rng, probability=self.probability)


class NGramSampling(Frozen):
    """Keep a few words that follow one another, and nothing else."""

    kind: Literal["n_gram_sampling"]
    lengths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = perturb.LENGTHS
    """How many words."""
    probabilities: tuple[Probability, ...] = perturb.EVENLY
    """Of each length."""

    @model_validator(mode="after")
    def _one_for_each(self) -> NGramSampling:
        _check(self.probabilities, len(self.lengths), "one for each of 'lengths'")
        return self

    def apply(self, words: list[str], rng: np.random.Generator) -> list[str]:
        """The words that are kept."""
        return perturb.n_gram_sampling(
            words, rng, lengths=self.lengths, probabilities=self.probabilities
        )


class ShortDisorder(Frozen):
    """Let two or three neighbours change places."""

    kind: Literal["short_disorder"]
    probabilities: tuple[Probability, ...] = perturb.SELDOM
    """Of abc, bac, cba, cab, bca."""

    @model_validator(mode="after")
    def _five(self) -> ShortDisorder:
        _check(self.probabilities, 5, "of abc, bac, cba, cab, bca")
        return self

    def apply(self, words: list[str], rng: np.random.Generator) -> list[str]:
        """The words in their new order."""
        return perturb.short_disorder(words, rng, probabilities=self.probabilities)


class LongDisorder(Frozen):
    """Let the two halves of a stretch of words change places."""

    kind: Literal["long_disorder"]
    probability: Probability = 0.1
    """At each word."""
    length: PositiveFloat = 20
    """Words of both halves together; up to 1 a share of the row."""

    def apply(self, words: list[str], rng: np.random.Generator) -> list[str]:
        """The words in their new order."""
        return perturb.long_disorder(words, rng, probability=self.probability, length=self.length)


Step = Annotated[
    Masking | Deleting | NGramSampling | ShortDisorder | LongDisorder,
    Field(discriminator="kind"),
]


def _check(probabilities: tuple[float, ...], count: int, what: str) -> None:
    if len(probabilities) != count:
        found = len(probabilities)
        raise ValueError(f"key 'probabilities' needs {count} numbers, {what}: found {found}")
    total = math.fsum(probabilities)
    if not math.isclose(total, 1.0, abs_tol=1e-9):
        raise ValueError(f"key 'probabilities' adds up to {total:g}, not to 1: mend it")
