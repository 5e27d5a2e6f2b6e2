"""Places of a text that are hidden from a model, so that it has to say what stood there.

The rule is BERT's: of the places that are chosen 80 % become the mask token, 10 % any other token,
and 10 % stay as they are. What is drawn depends on the seed and the text of a row alone.

Legend: B rows, N tokens of all rows together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kdpipe.errors import ArtifactError
from kdpipe.tokenizer import Encoded, Tokenizer

UNMASKED = -100
"""In place of the token that stood there, where none was hidden."""
_HIDDEN, _REPLACED = 0.8, 0.9


@dataclass(frozen=True)
class Masking:
    """How places are chosen, and what stands there then."""

    probability: float
    """With which each place is chosen; at least one of a row is."""
    seed: int
    tokenizer: Tokenizer
    prompt_tokens: int
    """At the head of each row, which are left as they are."""

    def __post_init__(self) -> None:
        """Raises ArtifactError for a tokenizer without a mask token."""
        if "mask_token" not in self.tokenizer.special:
            raise ArtifactError(
                "mlm_probability needs a tokenizer with a mask token, this one has none: use that"
                " of a masked language model such as BERT"
            )

    def of(self, rows: Encoded, digests: Sequence[bytes]) -> Encoded:
        """The rows with hidden places; `digests` are those of their texts.

        Special tokens are never chosen, so that a row of nothing else stays as it is.
        """
        backend = self.tokenizer.backend
        special = np.array([backend.token_to_id(t) for t in self.tokenizer.special.values()])
        mask = int(backend.token_to_id(self.tokenizer.special["mask_token"]))
        others = np.setdiff1d([*backend.get_vocab(with_added_tokens=True).values()], special)
        usual = ~np.isin(rows.ids, special)
        ids, original = rows.ids.copy(), np.full(len(rows.ids), UNMASKED, np.int64)
        ends = np.cumsum(rows.lengths)
        for digest, first, last in zip(digests, ends - rows.lengths, ends, strict=True):
            free = first + np.flatnonzero(usual[first:last])
            free = free[free >= first + self.prompt_tokens]
            if len(free):
                chosen, become = self._draw(digest, len(free), mask, others)
                places = free[chosen]
                original[places] = rows.ids[places]
                ids[places] = np.where(become < 0, rows.ids[places], become)
        return replace(rows, ids=ids, original=original)

    def _draw(
        self, digest: bytes, count: int, mask: int, others: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Which of `count` places are chosen, and what stands there then; -1: what stood there."""
        key = self.seed.to_bytes(8, "little")
        drawn = hashlib.blake2b(digest, digest_size=16, key=key, person=b"masking").digest()
        generator = np.random.Generator(np.random.PCG64(int.from_bytes(drawn, "little")))
        luck, fate, token = generator.random((3, count))
        chosen = np.flatnonzero(luck < self.probability)
        if not len(chosen):
            chosen = luck.argmin(keepdims=True)
        fate, token = fate[chosen], token[chosen]
        random = others[(token * len(others)).astype(np.int64)]
        become = np.where(fate < _HIDDEN, mask, np.where(fate < _REPLACED, random, -1))
        return chosen, become
