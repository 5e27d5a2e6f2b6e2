"""Task `masked_language`: how well a model guesses the masked tokens of held-out rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdpipe.config import Frozen
from kdpipe.errors import ArtifactError, NonFiniteError, UsageError
from kdpipe.parts import MASKED_LOGITS
from kdpipe.progress import counted
from kdpipe.tasks.subject import read, say

if TYPE_CHECKING:
    from torch import Tensor

    from kdpipe.activations import Tokens
    from kdpipe.sources.row import Row
    from kdpipe.tasks.subject import HeldOut, Subject

_TOKENS = 2048
"""Padded tokens in a pass: a model gives as many logits for each masked one as it has tokens."""
_MOST = 700.0
"""Nats: what a larger mean makes is no number any more."""


class MaskedLanguage(Frozen):
    """Compare guesses with what stood there, and with the teacher's guesses."""

    kind: Literal["masked_language"]

    @property
    def main(self) -> str:
        """The metric that stands for the task; less of it is better."""
        return "perplexity"

    def files(self) -> list[str]:
        """None: the corpus and the cache have all that is needed."""
        return []

    def score(self, subject: Subject, held_out: HeldOut, root: Path) -> dict[str, float]:
        """`perplexity`, `accuracy`, and `agreement` where the cache has the teacher's guesses.

        `perplexity`: exp of the mean cross-entropy (natural logarithm) of what stood at the masked
        places, all of a row hidden together as the corpus has them; fewer hidden ones at a time, as
        in pseudo-perplexity by one token at a time, give lower numbers. `accuracy`: share of these
        places where the likeliest token is the right one; `agreement`: where it is the teacher's.
        Nothing for a model without such a head.

        Raises:
            ArtifactError: held-out rows have no masked tokens.
            NonFiniteError: the model gives NaN or Inf.
        """
        if subject.encoder.dims.problem != "mlm" or not subject.alike:
            return {}
        tokens = held_out.tokens
        if not bool(tokens.masked.any()):
            raise ArtifactError(
                "masked_language needs masked tokens in held-out rows: set 'mlm_probability' of the"
                " corpus, or raise its 'validation'"
            )
        losses, likeliest = _guess(subject, tokens)
        assert tokens.original is not None
        gold = tokens.original[tokens.masked]
        scores = {
            "perplexity": math.exp(min(float(losses.double().mean()), _MOST)),
            "accuracy": float((likeliest == gold).double().mean()),
        }
        if held_out.likeliest is not None:
            said = held_out.likeliest[tokens.masked]
            scores["agreement"] = float((likeliest == said).double().mean())
        return scores


def guesses_of(
    subject: Subject, rows: Sequence[Row], top_k: int = 5
) -> list[list[tuple[list[str], list[float]]]]:
    """For each row, for each mask token in it: the likeliest tokens and their probabilities.

    Raises:
        UsageError: a tokenizer without a mask token.
        NonFiniteError: the model gives NaN or Inf.
    """
    import torch

    from kdpipe.masked_logits import unpacked
    from kdpipe.masking import UNMASKED

    backend, name = subject.tokenizer.backend, subject.tokenizer.special.get("mask_token")
    if name is None:
        raise UsageError(f"{subject.name} has no mask token: use a masked language model")
    tokens, _ = read(subject, rows)
    hidden = tokens.ids == backend.token_to_id(name)
    tokens = replace(tokens, original=tokens.ids.where(hidden, UNMASKED))
    said = torch.from_numpy(say(subject, tokens, MASKED_LOGITS._replace(top_k=top_k)))
    logs, ids, _ = unpacked(said)
    words = [subject.tokenizer.spell(some, special=True) for some in ids.tolist()]
    each = iter(zip(words, logs.exp().tolist(), strict=True))
    counts = [int(some.sum()) for some in hidden.split(tokens.lengths.tolist())]
    return [list(islice(each, count)) for count in counts]


def _guess(subject: Subject, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Of each masked token the cross-entropy [M] of what it was, and the likeliest one [M]."""
    import torch
    from torch.nn import functional

    from kdpipe.batches import by_length
    from kdpipe.encoder import observe

    count = tokens.vectors(MASKED_LOGITS)
    losses, likeliest = torch.empty(count), torch.empty(count, dtype=torch.int64)
    for batch in map(torch.from_numpy, by_length(tokens.lengths.numpy(), _TOKENS)):
        rows, places = tokens.take(batch), tokens.vectors_of(batch, MASKED_LOGITS)
        said = observe(subject.encoder, rows, frozenset({MASKED_LOGITS}), "fp32")[MASKED_LOGITS]
        assert rows.original is not None
        gold = rows.original[rows.masked].to(said.device)
        losses[places] = functional.cross_entropy(said, gold, reduction="none").cpu()
        likeliest[places] = said.argmax(-1).cpu()
    if bad := int((~losses.isfinite()).sum()):
        raise NonFiniteError(
            f"{subject.name} gives NaN or Inf for {counted(bad, 'masked token')}: train it with a"
            " lower learning_rate, or with bf16: false"
        )
    return losses, likeliest
