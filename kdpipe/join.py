"""Rows of one corpus found again in another one.

Of one tokenizer rows are the same where their tokens are, of two where their texts are; of rows of
words, words are the same where they have the same place. Legend: R rows, N tokens of a corpus, M
tokens of the other, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from kdpipe.activations import Activations
from kdpipe.cache import Cache
from kdpipe.corpus import Corpus
from kdpipe.errors import UsageError
from kdpipe.parts import TOKEN_LOGITS, Needs, listed
from kdpipe.tokenizer import Encoded, first_tokens

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Joined:
    """A cache as a student reads it, whose corpus may be another one than the cache's."""

    cache: Cache
    row_of: npt.NDArray[np.int64] | None
    """[R]: row of the student's corpus -> row of the cache's, -1 where that has none; None: the
    corpus is the same."""
    same_tokens: bool
    """Whether such rows have the same tokens, or the same text in other ones."""

    @property
    def known(self) -> Bools | None:
        """[R]: which rows of the student's corpus the teacher has read; None: all."""
        return None if self.row_of is None else self.row_of >= 0

    def read(
        self, rows: npt.NDArray[np.int64], needs: Needs, mine: Encoded
    ) -> tuple[Activations, Bools | None]:
        """What the teacher said about rows of the student's corpus, which reads them as `mine`.

        Parts about tokens lie at the first token of each word, and the mask [N] says where: words
        that one of the two tokenizers cut off, or made nothing of, have none. The mask is None
        where both read the same tokens.
        """
        if self.row_of is None:
            return self.cache.read(rows, needs), None
        there = self.row_of[rows]
        said = self.cache.read(there, needs)
        lengths = torch.from_numpy(mine.lengths)
        if self.same_tokens or not any(part.per_token for part in needs):
            return Activations(lengths, said.values), None
        places, sources = _words_of_both(mine, self.cache.corpus.gather(there))
        values = {
            part: _laid_out(value, len(mine.ids), places, sources) if part.per_token else value
            for part, value in said.values.items()
        }
        mask = np.zeros(len(mine.ids), np.bool_)
        mask[places] = True
        return Activations(lengths, values), mask


def join(corpus: Corpus, cache: Cache, needs: Needs) -> Joined:
    """A cache for a student that reads `corpus` and needs these parts of it.

    Raises:
        UsageError: another corpus, and parts about tokens that another tokenizer does not have, or
            no row in common.
    """
    other = cache.corpus
    if other.digest == corpus.digest:
        return Joined(cache, None, same_tokens=True)
    same = corpus.facts.tokenizer == other.facts.tokenizer and _by_token(needs)
    if same:
        row_of = _places(corpus.token_digests, other.token_digests)
        alike = "row of the same tokens: they differ in sources, max_seq_length, prompt or masks"
    else:
        _refuse(corpus, cache, needs)
        # Of rows with one text the first one speaks; windows of one text are not told apart.
        row_of = _places(corpus.text_digests, other.text_digests)
        alike = "text in common: make both from the same sources"
    if not (row_of >= 0).any():
        raise UsageError(f"{corpus.folder} and {other.folder} have no {alike}")
    return Joined(cache, row_of, bool(same))


def _places(mine: npt.NDArray[np.void], theirs: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """[R]: the first place in `theirs` of each of `mine`, -1 of what is not there."""
    known, first = np.unique(theirs, return_index=True)
    place = np.searchsorted(known, mine).clip(max=len(known) - 1)
    found: npt.NDArray[np.int64] = np.where(known[place] == mine, first[place], -1).astype(np.int64)
    return found


def _by_token(needs: Needs) -> Needs:
    return frozenset(part for part in needs if part.per_token)


def _refuse(corpus: Corpus, cache: Cache, needs: Needs) -> None:
    by_token = _by_token(needs)
    other = frozenset(part for part in by_token if part != TOKEN_LOGITS)
    both = f"{corpus.folder} and {cache.corpus.folder} are read by different tokenizers"
    if other:
        raise UsageError(
            f"{both}, which have no {listed(other)} in common: use objectives on embeddings or"
            " logits, or the teacher's tokenizer"
        )
    blocks = [one.block(0) for one in (corpus, cache.corpus)]
    if by_token and any(block.word_of is None for block in blocks):
        raise UsageError(
            f"{both}: tokens are matched by words, and these rows are none: use a source of kind"
            " conll, or set split_words: true"
        )
    labels = [block.labels for block in blocks if block.labels is not None]
    if any(
        pa.types.is_list(one.type) and pa.types.is_integer(one.type.value_type) for one in labels
    ):
        raise UsageError(f"{both}, in which windows of one context differ: use the teacher's")


def _words_of_both(
    mine: Encoded, theirs: Encoded
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places of the first tokens of all words that both have, in mine and in theirs."""
    (keys, places), (their_keys, their_places) = _word_keys(mine), _word_keys(theirs)
    _, left, right = np.intersect1d(keys, their_keys, assume_unique=True, return_indices=True)
    return places[left], their_places[right]


def _word_keys(encoded: Encoded) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A number for each word that has a token, the same in every tokenizer, and its first token."""
    assert encoded.word_of is not None, "refused before the first step"
    places = np.flatnonzero(first_tokens(encoded))
    row_of = np.repeat(np.arange(len(encoded.lengths)), encoded.lengths)
    return (row_of[places] << 32) + encoded.word_of[places], places


def _laid_out(
    values: Tensor, tokens: int, places: npt.NDArray[np.int64], sources: npt.NDArray[np.int64]
) -> Tensor:
    """[M, D] as [N, D], 0 where a token has no counterpart."""
    laid = values.new_zeros(tokens, values.shape[1])
    laid[torch.from_numpy(places)] = values[torch.from_numpy(sources)]
    return laid
