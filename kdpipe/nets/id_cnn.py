"""ID-CNN: dilated convolutions over words, iterated (Strubell and others, arXiv 1702.02098).

Legend: B rows, T words of the longest row, D width of a word as it is read, F filters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdpipe.nets.characters import CharacterFilters
from kdpipe.nets.features import SHAPES
from kdpipe.nets.words import PADDING, Words, forget, silence


class IDCNN(nn.Module):
    """NLP Architect's `id-cnn` without its last layer; `width` is `filters`.

    The blocks share their convolutions, and the states are those of the last block (there more
    than one block fails). Padding is 0 before every convolution, as if rows ended there.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        word_width: int = 100,
        shape_width: int = 5,
        use_characters: bool = False,
        character_width: int = 16,
        character_filters: int = 128,
        character_kernel_size: int = 3,
        filters: int = 128,
        kernel_size: int = 3,
        dilations: Sequence[int] = (1, 2, 1),
        blocks: int = 1,
        input_dropout: float = 0.35,
        middle_dropout: float = 0.0,
        hidden_dropout: float = 0.15,
        word_dropout: float = 0.0,
    ) -> None:
        """`vocabulary` counts the id 0; dropout acts before, between and behind the blocks.

        `word_dropout` is the share of words that are unknown in training, but for their shapes.
        """
        super().__init__()
        self.width, self.blocks, self.word_dropout = filters, blocks, word_dropout
        self.words = nn.Embedding(vocabulary, word_width, padding_idx=PADDING)
        self.shapes = nn.Embedding(SHAPES + 1, shape_width, padding_idx=PADDING)
        self.characters = None
        inputs = word_width + shape_width
        if use_characters:
            self.characters = CharacterFilters(
                character_width, character_filters, character_kernel_size
            )
            inputs += character_filters
        self.entry = nn.Conv1d(inputs, filters, kernel_size, padding="same")
        self.dilated = nn.ModuleList(
            nn.Conv1d(filters, filters, kernel_size, padding="same", dilation=dilation)
            for dilation in dilations
        )
        self.input_dropout = input_dropout
        self.middle_dropout = middle_dropout
        self.hidden_dropout = hidden_dropout

    def forward(self, inputs: Words) -> Tensor:
        """[B, T, width], 0 at padded places; ids and shapes are read, and characters if used."""
        return self.every(inputs)[-1]

    def every(self, inputs: Words) -> list[Tensor]:
        """[B, T, D], what the first convolution reads, then [B, T, width] of each convolution."""
        ids = forget(inputs.ids, self.word_dropout, self.training)
        parts = [self.words(ids), self.shapes(inputs.shaped())]
        if self.characters is not None:
            parts.append(self.characters(inputs.spelt()))
        every = [silence(torch.cat(parts, -1), inputs.mask)]
        states = functional.dropout(every[0], self.input_dropout, self.training)
        every.append(_convolve(self.entry, states, inputs.mask))
        for block in range(self.blocks):
            rate = self.middle_dropout if block else 0.0
            states = functional.dropout(every[-1], rate, self.training)
            for convolution in self.dilated:
                states = _convolve(convolution, states, inputs.mask)
                every.append(states)
        every[-1] = functional.dropout(every[-1], self.hidden_dropout, self.training)
        return every


def _convolve(convolution: nn.Module, states: Tensor, mask: Tensor) -> Tensor:
    """[B, T, F] from `states` that are 0 at padded places, as are the ones that come out."""
    out: Tensor = convolution(states.transpose(1, 2)).transpose(1, 2)
    return silence(functional.relu(out), mask)
