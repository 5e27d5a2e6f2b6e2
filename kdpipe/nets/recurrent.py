"""BiLSTM and BiGRU that read each row from its first word to its last, and no padding.

Legend: B rows, T words of the longest row, D width of the states that go in, H hidden size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from kdpipe.nets.words import PADDING, Words, silence

Cell = Literal["lstm", "gru"]


class Bidirectional(nn.Module):
    """Layers of LSTM or GRU in both directions, each layer over both directions of the one below.

    Values, initialisation and number of parameters are those of torch's bidirectional modules on
    packed sequences. In place of packing the leftward direction reads its rows reversed within
    their lengths, so that padding comes last both ways: dense kernels, of which LSTM has one on
    the CPU that packed sequences do not reach, and no wait for the lengths on CUDA.
    """

    def __init__(
        self,
        inputs: int,
        hidden_size: int,
        num_layers: int,
        cell: Cell = "lstm",
        dropout: float = 0.0,
    ) -> None:
        """`dropout` acts between layers only."""
        super().__init__()
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        sizes = [inputs] + [2 * hidden_size] * (num_layers - 1)
        self.rightward = nn.ModuleList(kind(size, hidden_size, batch_first=True) for size in sizes)
        self.leftward = nn.ModuleList(kind(size, hidden_size, batch_first=True) for size in sizes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> list[Tensor]:
        """[B, T, 2 H] of each layer from `states [B, T, D]` and `mask [B, T]`, 0 at padding."""
        order, every = _reversed(mask), list[Tensor]()
        for right, left in zip(self.rightward, self.leftward, strict=True):
            states = self.dropout(every[-1]) if every else states
            backward = left(_take(states, order))[0]
            states = torch.cat((right(states)[0], _take(backward, order)), -1)
            every.append(silence(states, mask))
        return every


class Recurrent(nn.Module):
    """Word embedding, then a BiLSTM or BiGRU; `width` is 2 `hidden_size`.

    The defaults are those of the students of the Keras distillation repository.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        word_width: int = 128,
        hidden_size: int = 128,
        num_layers: int = 1,
        cell: Cell = "lstm",
        dropout: float = 0.0,
        padding: int | None = PADDING,
    ) -> None:
        """`vocabulary` counts the id `padding`, which says nothing and learns nothing; None: no id.

        `dropout` acts before, between and behind the layers.
        """
        super().__init__()
        self.width = 2 * hidden_size
        self.words = nn.Embedding(vocabulary, word_width, padding_idx=padding)
        self.layers = Bidirectional(word_width, hidden_size, num_layers, cell, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Words) -> Tensor:
        """[B, T, width], 0 at padded places; of the words their ids are read."""
        return self.every(inputs)[-1]

    def every(self, inputs: Words) -> list[Tensor]:
        """[B, T, word_width], what the first layer reads, then [B, T, width] of each layer."""
        vectors = silence(self.words(inputs.ids), inputs.mask)
        *below, last = self.layers(self.dropout(vectors), inputs.mask)
        return [vectors, *below, self.dropout(last)]


def _reversed(mask: Tensor) -> Tensor:
    """[B, T]: where to find the words of each row from last to first, then its padding.

    It is its own inverse: the words taken twice stand where they stood.
    """
    places = torch.arange(mask.shape[1], device=mask.device)
    return (mask.sum(1, keepdim=True) - 1 - places) % mask.shape[1]


def _take(states: Tensor, order: Tensor) -> Tensor:
    """`states [B, T, D]` in the `order [B, T]` of places."""
    return states.gather(1, order.unsqueeze(-1).expand(states.shape))
