"""What goes into a model and what comes out of it, without padding.

Legend: B rows, N real tokens of all rows together, T tokens of the longest row, D width.
Token-level values are flat, `[N, D]`, in the order of the rows, with `lengths [B]` beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdpipe.masking import UNMASKED
from kdpipe.parts import Part

if TYPE_CHECKING:
    from kdpipe.nets.crf import CRF
    from kdpipe.parts import Problem
    from kdpipe.tokenizer import Encoded


@dataclass(frozen=True)
class Tokens:
    """Rows of token ids."""

    ids: Tensor
    """[N] int64."""
    lengths: Tensor
    """[B] int64."""
    second_at: Tensor | None = None
    """[B] int64: where the second text of a pair begins; None where no row is a pair."""
    prompt_tokens: int = 0
    """Tokens of the prompt at the head of each row, which some models do not pool."""
    original: Tensor | None = None
    """[N] int64: what stood where a token is masked, -100 elsewhere; None where none is masked."""
    spelling: Tensor | None = None
    """[N, 1 + C] uint8: shape and characters of the word of each token, as `kdpipe.nets.features`
    has them; None where tokens are parts of words."""

    @classmethod
    def of(cls, rows: Encoded, prompt_tokens: int) -> Tokens:
        """The rows that a tokenizer or a corpus gives, as tensors."""
        ids, lengths = torch.from_numpy(rows.ids), torch.from_numpy(rows.lengths)
        second_at, original, spelling = (
            None if array is None else torch.from_numpy(array)
            for array in (rows.second_at, rows.original, rows.spelling)
        )
        return cls(ids, lengths, second_at, prompt_tokens, original, spelling)

    def __len__(self) -> int:
        return self.lengths.numel()

    def to(self, device: torch.device) -> Tokens:
        """The same rows on another device."""
        ids, lengths = (x.to(device, non_blocking=True) for x in (self.ids, self.lengths))
        second_at, original, spelling = (
            None if x is None else x.to(device, non_blocking=True)
            for x in (self.second_at, self.original, self.spelling)
        )
        return Tokens(ids, lengths, second_at, self.prompt_tokens, original, spelling)

    def take(self, rows: Tensor) -> Tokens:
        """Chosen rows `[R]`, in the order asked for."""
        lengths = self.lengths[rows]
        second_at = None if self.second_at is None else self.second_at[rows]
        places = self.places(rows)
        original, spelling = (
            None if x is None else x[places] for x in (self.original, self.spelling)
        )
        ids = self.ids[places]
        return Tokens(ids, lengths, second_at, self.prompt_tokens, original, spelling)

    def places(self, rows: Tensor) -> Tensor:
        """Where in `ids` the tokens of chosen rows are, row after row."""
        ends, lengths = self.lengths.cumsum(0), self.lengths[rows]
        shift = ends[rows] - lengths.cumsum(0)
        return torch.arange(int(lengths.sum())) + shift.repeat_interleave(lengths)

    @property
    def masked(self) -> Tensor:
        """[N] bool: which tokens are masked."""
        if self.original is None:
            return torch.zeros_like(self.ids, dtype=torch.bool)
        return self.original != UNMASKED

    def vectors(self, part: Part) -> int:
        """How many vectors a part has: one for each row, token or masked token."""
        if part.only_masked:
            return int(self.masked.sum())
        return len(self.ids) if part.per_token else len(self)

    def vectors_of(self, rows: Tensor, part: Part) -> Tensor:
        """Where among the vectors of a part those of chosen rows are, row after row."""
        if not part.per_token:
            return rows
        places = self.places(rows)
        if not part.only_masked:
            return places
        masked = self.masked
        return (masked.cumsum(0) - 1)[places[masked[places]]]

    def mask(self) -> Tensor:
        """[B, T] bool: which places of the padded form are real tokens."""
        return mask_of(self.lengths)

    def padded(self, pad_id: int) -> Tensor:
        """[B, T] int64: the ids, right-padded."""
        mask = self.mask()
        return torch.full(mask.shape, pad_id, device=mask.device).masked_scatter_(mask, self.ids)

    def types(self) -> Tensor:
        """[B, T] int64: 1 from the second text of a pair on, else 0."""
        mask = self.mask()
        if self.second_at is None:
            return torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
        places = torch.arange(mask.shape[1], device=mask.device)
        return ((places[None, :] >= self.second_at[:, None]) & mask).long()


@dataclass(frozen=True)
class Activations:
    """What a model said about some rows: the same type from a live model and from a cache."""

    lengths: Tensor
    """[B] int64: tokens of each row."""
    values: dict[Part, Tensor]
    """[B, D] for a part about rows, [N, D] for one about tokens, [M, D] about M masked ones."""
    crf: CRF | None = None
    """Of a live tagger that has one: what makes sequences of labels out of its logits."""

    def __getitem__(self, part: Part) -> Tensor:
        return self.values[part]

    def to(self, device: torch.device) -> Activations:
        """The same on another device."""
        values = {part: value.to(device, non_blocking=True) for part, value in self.values.items()}
        return Activations(self.lengths.to(device, non_blocking=True), values, self.crf)

    def mask(self) -> Tensor:
        """[B, T] bool: which places of the padded form are real tokens."""
        return mask_of(self.lengths)

    def padded(self, part: Part) -> Tensor:
        """[B, T, D]: a part about tokens, 0 where there is none."""
        return pad(self.values[part], self.mask())


@dataclass(frozen=True)
class Dims:
    """Widths of a model, how many layers and attention heads it has, and its classes."""

    embedding: int
    hidden: int
    layers: int
    heads: int = 1
    classes: tuple[str, ...] = ()
    """Names of what its logits are about, in their order; empty for a model without logits."""
    problem: Problem | None = None
    """What its logits mean; None without logits."""
    relative: bool = False
    """Whether attention also depends on positions that queries and keys do not show."""
    words: int | None = None
    """Width of the embeddings' output, layer 0; None: that of the layers."""
    vocabulary: int = 0
    """Logits of a token, of a masked language model; 0 of others."""
    masked: Part | None = None
    """Which of these a cache has; None of a model, which has all."""
    module_width: Callable[[str], int] | None = field(default=None, compare=False, repr=False)
    """By its name, how many numbers a module gives for a token; None of files, which have none."""

    def width(self, part: Part) -> int:
        """How many numbers a vector of this part has."""
        if part.module is not None:
            assert self.module_width is not None, "refused where the pipeline file is read"
            return self.module_width(part.module)
        if part.top_k is not None:
            return 2 * min(part.top_k, self.vocabulary) + 1
        if part.name in {"logits", "token_logits", "masked_logits"}:
            return self.vocabulary or len(self.classes)
        if part.name == "embedding":
            return self.embedding
        return self.words if part == Part("hidden", 0) and self.words else self.hidden


def mask_of(lengths: Tensor) -> Tensor:
    """[B, T] bool from `lengths [B]`."""
    # At least one place: a tokenizer of words makes nothing of a blank text.
    places = torch.arange(max(1, int(lengths.max())), device=lengths.device)
    return places[None, :] < lengths[:, None]


def pad(values: Tensor, mask: Tensor) -> Tensor:
    """[N, D] as [B, T, D], 0 where `mask [B, T]` says that there is no token."""
    padded = values.new_zeros(*mask.shape, *values.shape[1:])
    return padded.masked_scatter(mask.view(*mask.shape, *[1] * (values.dim() - 1)), values)
