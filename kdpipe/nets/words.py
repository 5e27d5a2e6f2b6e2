"""What goes into a small net: rows of words, padded to the longest.

Legend: B rows, T words of the longest row, C characters, D width. Padding is at the right; what
stands at padded places never changes a result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdpipe.errors import UsageError

PADDING = 0
"""The id of padding, among words, characters and shapes alike."""
UNKNOWN = 1
"""The id of every word that is not in a vocabulary of words."""


@dataclass(frozen=True)
class Words:
    """Rows of words, and what a net may know of each beside its id."""

    ids: Tensor
    """[B, T] int64."""
    mask: Tensor
    """[B, T] bool: True at words, False at padding."""
    characters: Tensor | None = None
    """[B, T, C] int64: ids of `features.characters_of`."""
    shapes: Tensor | None = None
    """[B, T] int64: those of `features.shape_of`."""

    def __post_init__(self) -> None:
        assert self.mask.shape == self.ids.shape
        assert self.characters is None or self.characters.shape[:2] == self.ids.shape
        assert self.shapes is None or self.shapes.shape == self.ids.shape

    def to(self, device: torch.device) -> Words:
        """The same words on another device."""
        every = (self.ids, self.mask, self.characters, self.shapes)
        ids, mask, characters, shapes = (
            None if one is None else one.to(device, non_blocking=True) for one in every
        )
        assert ids is not None
        assert mask is not None
        return Words(ids, mask, characters, shapes)

    def spelt(self) -> Tensor:
        """`characters`, where they are needed; raises UsageError where there are none."""
        if self.characters is None:
            raise UsageError(
                "this model reads the characters of words: give it 'characters', which"
                " kdpipe.nets.features.character_array makes"
            )
        return self.characters

    def shaped(self) -> Tensor:
        """`shapes`, where they are needed; raises UsageError where there are none."""
        if self.shapes is None:
            raise UsageError(
                "this model reads the shapes of words: give it 'shapes', which"
                " kdpipe.nets.features.shape_array makes"
            )
        return self.shapes


def forget(ids: Tensor, rate: float, training: bool) -> Tensor:
    """`ids`, in training with a share of them unknown, so that the unknown word learns too."""
    if not training or not rate:
        return ids
    return ids.masked_fill(torch.rand(ids.shape, device=ids.device) < rate, UNKNOWN)


def silence(states: Tensor, mask: Tensor) -> Tensor:
    """`states [B, T, D]` with 0 where `mask [B, T]` is False; no gradient passes there."""
    return states.masked_fill(~mask.unsqueeze(-1), 0.0)
