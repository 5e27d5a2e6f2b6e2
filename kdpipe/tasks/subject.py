"""What is measured, and on what: a model under a name, and the rows that no student trained on.

Legend: B texts, R held-out rows, N their tokens, D width of the subject, E width of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kdpipe.errors import NonFiniteError
from kdpipe.parts import EMBEDDING, Part
from kdpipe.progress import counted
from kdpipe.sources.row import Row

if TYPE_CHECKING:
    from torch import Tensor

    from kdpipe.activations import Tokens
    from kdpipe.device import Dtype
    from kdpipe.encoder import Encoder
    from kdpipe.tokenizer import Encoded, Tokenizer

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
    alike: bool = True
    """Whether it reads the student's tokens."""


@dataclass(frozen=True)
class HeldOut:
    """Rows of the corpus that no student trained on, and what the teacher says about them."""

    tokens: Tokens
    """[N] in R rows."""
    teacher: Vectors | None
    """[R, E]: the teacher's embeddings; None where the cache has none."""
    teacher_tokens: Tokens | None = None
    """[M] in R rows: the same rows as the teacher reads them; None: as the student does."""
    logits: Vectors | None = None
    """[R, C]: the teacher's logits of rows; None where the cache has none."""
    classes: tuple[str, ...] = ()
    """What these C are about."""
    likeliest: Tensor | None = None
    """[N] int64: what the teacher takes each masked token for, -1 of others; None where the cache
    does not tell."""

    def spread(self, rows: int) -> HeldOut:
        """At most `rows` of them, evenly spread over the corpus."""
        import torch

        if rows >= len(self.tokens):
            return self
        places = np.linspace(0, len(self.tokens) - 1, rows).round()
        return self.take(torch.from_numpy(places.astype(np.int64)))

    def take(self, taken: Tensor) -> HeldOut:
        """Chosen rows, in the order asked for."""
        said = (
            None if values is None else values[taken.numpy()]
            for values in (self.teacher, self.logits)
        )
        others = None if self.teacher_tokens is None else self.teacher_tokens.take(taken)
        likeliest = self.likeliest
        if likeliest is not None:
            likeliest = likeliest[self.tokens.places(taken)]
        rows = self.tokens.take(taken)
        return HeldOut(rows, next(said), others, next(said), self.classes, likeliest)

    def read_by(self, subject: Subject) -> Tokens:
        """The rows as a subject reads them."""
        return self.tokens if subject.alike or self.teacher_tokens is None else self.teacher_tokens


def embed_rows(subject: Subject, held_out: HeldOut) -> Vectors:
    """[R, D]: what the subject says about held-out rows; raises NonFiniteError for NaN or Inf."""
    return say(subject, held_out.read_by(subject), EMBEDDING)


def embed_texts(subject: Subject, texts: list[str]) -> Vectors:
    """[B, D]: what the subject says about texts; raises NonFiniteError for NaN or Inf."""
    return say(subject, read(subject, [Row(text) for text in texts])[0], EMBEDDING)


def read(subject: Subject, rows: Sequence[Row]) -> tuple[Tokens, Encoded]:
    """Rows as the subject reads them, with its prompt and cut to its limit."""
    from kdpipe.activations import Tokens
    from kdpipe.read_rows import read_rows

    encoded = read_rows(subject.tokenizer, rows, subject.max_seq_length, subject.prompt).encoded
    return Tokens.of(encoded, subject.tokenizer.count(subject.prompt)), encoded


def say(subject: Subject, tokens: Tokens, part: Part) -> Vectors:
    """[B, D] or [N, D]: a part of what the subject says; raises NonFiniteError for NaN or Inf."""
    from kdpipe.encoder import ask

    vectors: Vectors = ask(subject.encoder, tokens, part, "fp32").numpy()
    bad = int(np.count_nonzero(~np.isfinite(vectors).all(axis=1)))
    if bad:
        what = counted(len(vectors), "token" if part.per_token else "text")
        raise NonFiniteError(
            f"{subject.name} gives NaN or Inf for {bad:,} of {what}: train it with a"
            " lower learning_rate, or with bf16: false"
        )
    return vectors
