"""Ways to make copies of a text: words replaced by a model or by vectors, or noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from kdpipe.augment.replace import CANDIDATES, PROBABILITY, replacements
from kdpipe.augment.side import Side, Span
from kdpipe.augment.steps import Masking, Probability, Step, Text
from kdpipe.augment.tools import model_state, vectors_state
from kdpipe.config import Frozen

if TYPE_CHECKING:
    import numpy as np

    from kdpipe.augment.tools import Tools


Candidates = dict[Span, list[str]]


class Perturb(Frozen):
    """Noise: TextBrewer's perturbations, one after the other."""

    kind: Literal["perturb"]
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    """What happens to the words (what blanks part), in this order."""

    @property
    def keeps_places(self) -> bool:
        """Whether each word of a copy stands where the word stood that it was made of."""
        return all(isinstance(step, Masking) for step in self.steps)

    def copies(self, side: Side, rng: np.random.Generator, tools: Tools) -> Iterator[Side]:
        """Copies without end, the text as it is where no step changed a word."""
        words = side.text.split() if side.words is None else [*side.words]
        while True:
            made = words
            for step in self.steps:
                made = step.apply(made, rng)
            kept = None if side.words is None else tuple(made)
            yield side if made == words else Side(" ".join(made), kept)

    def state(self, root: Path) -> dict[str, str]:
        """What copies depend on beside this: nothing."""
        return {}


class Replace(Frozen, ABC):
    """Each word that is no stop word becomes one of its candidates, or stays."""

    candidates: PositiveInt = CANDIDATES
    """So many of the likeliest or nearest words are looked at, and of these those of letters."""
    probability: Probability = PROBABILITY
    """For each word."""

    @property
    def keeps_places(self) -> bool:
        """Whether each word of a copy stands where the word stood that it was made of."""
        return True

    def copies(self, side: Side, rng: np.random.Generator, tools: Tools) -> Iterator[Side]:
        """Copies without end; none where no word has a candidate."""
        found = self.candidates_in(side.text, side.places(), tools)
        return replacements(side, found, self.probability, rng)

    @abstractmethod
    def candidates_in(self, text: str, places: list[Span], tools: Tools) -> Candidates:
        """What could stand at places of a text."""

    @abstractmethod
    def state(self, root: Path) -> dict[str, str]:
        """What copies depend on beside this, by name."""


class _Model(Frozen):
    model: Text
    """A folder or a hub id of a masked language model with its head."""
    revision: str | None = None
    """A commit, tag or branch of the hub; None is the default branch."""

    def state_of_model(self, root: Path) -> dict[str, str]:
        """The model's weights, config and tokenizer."""
        return {"model": model_state(self.model, self.revision, root)}


class _Vectors(Frozen):
    vectors: Text
    """A file of word vectors as text, such as GloVe's: `.txt`, `.vec` or `.gz`."""
    vocabulary: PositiveInt = 100_000
    """So many words of the file, from its beginning, are looked at."""

    def state_of_vectors(self, root: Path) -> dict[str, str]:
        """The digest of the file."""
        return {"vectors": vectors_state(root / self.vectors)}


class MaskedLm(_Model, Replace):
    """Candidates of words that are one token: what a masked language model expects there."""

    kind: Literal["masked_lm"]

    def candidates_in(self, text: str, places: list[Span], tools: Tools) -> Candidates:
        """Those of the words that are one token; the others have none."""
        model = tools.masked_model(self.model, self.revision)
        return model.candidates(text, places, self.candidates)

    def state(self, root: Path) -> dict[str, str]:
        """That of the model."""
        return self.state_of_model(root)


class WordVectors(_Vectors, Replace):
    """Candidates: the words whose vectors are nearest."""

    kind: Literal["word_vectors"]

    def candidates_in(self, text: str, places: list[Span], tools: Tools) -> Candidates:
        """Those of all words."""
        near = tools.neighbours(self.vectors, self.vocabulary)
        return {span: near.nearest(text[slice(*span)], self.candidates) for span in places}

    def state(self, root: Path) -> dict[str, str]:
        """That of the vectors."""
        return self.state_of_vectors(root)


class TinyBert(_Model, _Vectors, Replace):
    """TinyBERT's: `masked_lm` for words of one token, `word_vectors` for the others."""

    kind: Literal["tinybert"]

    def candidates_in(self, text: str, places: list[Span], tools: Tools) -> Candidates:
        """Those of all words."""
        near = tools.neighbours(self.vectors, self.vocabulary)
        model = tools.masked_model(self.model, self.revision)
        found = model.candidates(text, places, self.candidates)
        for span in places:
            if span not in found:
                found[span] = near.nearest(text[slice(*span)], self.candidates)
        return found

    def state(self, root: Path) -> dict[str, str]:
        """That of the model and that of the vectors."""
        return self.state_of_model(root) | self.state_of_vectors(root)


Method = Annotated[MaskedLm | WordVectors | TinyBert | Perturb, Field(discriminator="kind")]
