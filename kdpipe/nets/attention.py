"""A net of attention alone: no feed-forward layers.

Legend: B rows, T words of the longest row, D width of a state, A heads of W numbers each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdpipe.nets.words import PADDING, Words, silence


class AttentionLayer(nn.Module):
    """Heads that look at all words of a row; what they find is added to what went in."""

    def __init__(self, width: int, heads: int, head_size: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        inner = heads * head_size
        self.query, self.key, self.value = (nn.Linear(width, inner) for _ in range(3))
        self.output = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[B, T, D] from `states [B, T, D]`, which are not read where `mask [B, T]` is False."""
        query, key, value = (
            layer(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        # A row without words reads itself: of nothing there is no mean.
        mask = mask | ~mask.any(1, keepdim=True)
        rate = self.rate if self.training else 0.0
        read = functional.scaled_dot_product_attention(
            query, key, value, mask[:, None, None], dropout_p=rate
        )
        added: Tensor = self.dropout(self.output(read.transpose(1, 2).flatten(2)))
        normed: Tensor = self.norm(states + added)
        return normed


class Attention(nn.Module):
    """Word embedding with places, then layers of attention.

    The sizes by default are those of the attention student of the Keras distillation repository,
    which has neither places nor sums nor normalisations.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        hidden_size: int = 128,
        num_layers: int = 1,
        num_attention_heads: int = 4,
        head_size: int = 128,
        dropout: float = 0.0,
        padding: int | None = PADDING,
    ) -> None:
        """`vocabulary` counts the id `padding`, which says nothing and learns nothing; None: no id.

        `dropout` acts on what is read and on the weights of attention.
        """
        super().__init__()
        self.width = hidden_size
        self.words = nn.Embedding(vocabulary, hidden_size, padding_idx=padding)
        self.layers = nn.ModuleList(
            AttentionLayer(hidden_size, num_attention_heads, head_size, dropout)
            for _ in range(num_layers)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Words) -> Tensor:
        """[B, T, D], 0 at padded places; of the words their ids are read."""
        return self.every(inputs)[-1]

    def every(self, inputs: Words) -> list[Tensor]:
        """[B, T, D], what the first layer reads, then that of each layer."""
        vectors = self.words(inputs.ids)
        states = silence(self.dropout(vectors + places(vectors)), inputs.mask)
        every = [states]
        for layer in self.layers:
            every.append(silence(layer(every[-1], inputs.mask), inputs.mask))
        return every


def places(vectors: Tensor) -> Tensor:
    """[T, D] for `vectors [B, T, D]`: sines and cosines of the place, of any number of places.

    The waves are those of the first transformer (Vaswani 2017), sines in the first half.
    """
    _, length, width = vectors.shape
    device = vectors.device
    steps = torch.arange(width - width // 2, device=device)
    waves = 10_000.0 ** (-2.0 * steps / width)
    angles = torch.arange(length, device=device)[:, None] * waves
    both = torch.cat((angles.sin(), angles[:, : width // 2].cos()), -1)
    return both.to(vectors.dtype)
