"""What goes into a model and what comes out of it, without padding.

Legend: B rows, N real tokens of all rows together, T tokens of the longest row, D width.
Token-level values are flat, `[N, D]`, in the order of the rows, with `lengths [B]` beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kdpipe.tokenizer import Encoded


@dataclass(frozen=True)
class Needs:
    """Which parts of a forward pass are wanted; `a | b` joins, `a <= b`: does b have all of a."""

    embedding: bool = False
    hidden: frozenset[int] = frozenset()

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.embedding or other.embedding, self.hidden | other.hidden)

    def __le__(self, other: Needs) -> bool:
        return self.embedding <= other.embedding and self.hidden <= other.hidden

    def __str__(self) -> str:
        parts = ["embedding"] if self.embedding else []
        if self.hidden:
            parts.append(f"hidden layers {', '.join(str(layer) for layer in sorted(self.hidden))}")
        return " and ".join(parts) or "nothing"


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

    @classmethod
    def of(cls, rows: Encoded, prompt_tokens: int) -> Tokens:
        """The rows that a tokenizer or a corpus gives, as tensors."""
        second_at = None if rows.second_at is None else torch.from_numpy(rows.second_at)
        ids, lengths = torch.from_numpy(rows.ids), torch.from_numpy(rows.lengths)
        return cls(ids, lengths, second_at, prompt_tokens)

    def __len__(self) -> int:
        return self.lengths.numel()

    def to(self, device: torch.device) -> Tokens:
        """The same rows on another device."""
        second_at = None if self.second_at is None else self.second_at.to(device, non_blocking=True)
        ids, lengths = (x.to(device, non_blocking=True) for x in (self.ids, self.lengths))
        return Tokens(ids, lengths, second_at, self.prompt_tokens)

    def take(self, rows: Tensor) -> Tokens:
        """Chosen rows `[R]`, in the order asked for."""
        lengths = self.lengths[rows]
        second_at = None if self.second_at is None else self.second_at[rows]
        return Tokens(self.ids[self.places(rows)], lengths, second_at, self.prompt_tokens)

    def places(self, rows: Tensor) -> Tensor:
        """Where in `ids` the tokens of chosen rows are, row after row."""
        ends, lengths = self.lengths.cumsum(0), self.lengths[rows]
        shift = ends[rows] - lengths.cumsum(0)
        return torch.arange(int(lengths.sum())) + shift.repeat_interleave(lengths)

    def mask(self) -> Tensor:
        """[B, T] bool: which places of the padded form are real tokens."""
        places = torch.arange(int(self.lengths.max()), device=self.lengths.device)
        return places[None, :] < self.lengths[:, None]

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
    embedding: Tensor | None = None
    """[B, D]."""
    hidden: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> [N, D]."""

    def part(self, part: str, layer: int | None) -> Tensor:
        """The tensor of one question; it must have been asked for."""
        value = self.embedding if layer is None else self.hidden[layer]
        assert value is not None, f"{part} was not asked for"
        return value


@dataclass(frozen=True)
class Dims:
    """Widths of a model, and how many layers it has."""

    embedding: int
    hidden: int
    layers: int
