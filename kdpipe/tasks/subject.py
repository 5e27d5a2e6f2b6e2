"""What is measured, and on what: a model under a name, and the rows that no student trained on.

Legend: B texts, R held-out rows, N their tokens, D width of the subject, E width of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kdpipe.errors import NonFiniteError

if TYPE_CHECKING:
    from kdpipe.activations import Tokens
    from kdpipe.device import Dtype
    from kdpipe.encoder import Encoder
    from kdpipe.tokenizer import Tokenizer

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """A teacher, an untrained student or a student, and how it reads text."""

    name: str
    """What tables and pictures call it."""
    encoder: Encoder
    tokenizer: Tokenizer
    max_seq_length: int
    """Longer texts are cut, in tokens, special tokens included."""
    prompt: str
    """Put before every text."""
    dtype: Dtype
    """Of its matrix products where its speed is measured; its quality is measured in fp32."""
    folder: Path | None = None
    """Where its files are, to tell their size; None where it was never saved."""


@dataclass(frozen=True)
class HeldOut:
    """Rows of the corpus that no student trained on, and what the teacher says about them."""

    tokens: Tokens
    """[N] in R rows."""
    teacher: Vectors
    """[R, E]: the teacher's embeddings."""

    def spread(self, rows: int) -> HeldOut:
        """At most `rows` of them, evenly spread over the corpus."""
        import torch

        if rows >= len(self.tokens):
            return self
        places = np.linspace(0, len(self.tokens) - 1, rows).round()
        taken = torch.from_numpy(places.astype(np.int64))
        return HeldOut(self.tokens.take(taken), self.teacher[taken.numpy()])


def embed_rows(subject: Subject, held_out: HeldOut) -> Vectors:
    """[R, D]: what the subject says about held-out rows; raises NonFiniteError for NaN or Inf."""
    return _embed(subject, held_out.tokens)


def embed_texts(subject: Subject, texts: list[str]) -> Vectors:
    """[B, D]: what the subject says about texts; raises NonFiniteError for NaN or Inf."""
    from kdpipe.activations import Tokens

    prompt = subject.prompt
    encoded = subject.tokenizer.encode([prompt + text for text in texts], subject.max_seq_length)
    tokens = Tokens.of(encoded, subject.tokenizer.count(prompt))
    return _embed(subject, tokens)


def _embed(subject: Subject, tokens: Tokens) -> Vectors:
    from kdpipe.encoder import embed

    vectors: Vectors = embed(subject.encoder, tokens, "fp32").numpy()
    bad = int(np.count_nonzero(~np.isfinite(vectors).all(axis=1)))
    if bad:
        raise NonFiniteError(
            f"{subject.name} gives NaN or Inf for {bad} of {len(vectors)} texts: train it with a"
            " lower learning_rate, or with bf16: false"
        )
    return vectors
