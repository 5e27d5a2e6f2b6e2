"""CNN-LSTM: words and their characters, read by a BiLSTM (Ma and Hovy, arXiv 1603.01354).

Legend: B rows, T words of the longest row, D width of a word and its characters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdpipe.nets.characters import CharacterFilters
from kdpipe.nets.recurrent import Bidirectional
from kdpipe.nets.words import PADDING, Words, forget, silence


class CNNLSTM(nn.Module):
    """NLP Architect's `cnn-lstm` without its last layer; `width` is 2 `hidden_size`.

    Sizes and places of dropout are the same; padding, which there runs through the LSTM and takes
    part in the maximum over characters, has no effect here.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        word_width: int = 100,
        character_width: int = 16,
        character_filters: int = 128,
        character_kernel_size: int = 3,
        hidden_size: int = 100,
        num_layers: int = 2,
        dropout: float = 0.5,
        word_dropout: float = 0.0,
    ) -> None:
        """`vocabulary` counts the id 0; `dropout` acts before and behind the LSTM.

        `word_dropout` is the share of words that are unknown in training, but for their characters.
        """
        super().__init__()
        self.width, self.word_dropout = 2 * hidden_size, word_dropout
        self.words = nn.Embedding(vocabulary, word_width, padding_idx=PADDING)
        self.characters = CharacterFilters(
            character_width, character_filters, character_kernel_size
        )
        self.layers = Bidirectional(word_width + character_filters, hidden_size, num_layers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Words) -> Tensor:
        """[B, T, width], 0 at padded places; ids and characters of the words are read."""
        return self.every(inputs)[-1]

    def every(self, inputs: Words) -> list[Tensor]:
        """[B, T, D], what the LSTM reads, then [B, T, width] of each of its layers."""
        ids = forget(inputs.ids, self.word_dropout, self.training)
        parts = (self.words(ids), self.characters(inputs.spelt()))
        vectors = silence(torch.cat(parts, -1), inputs.mask)
        *below, last = self.layers(self.dropout(vectors), inputs.mask)
        return [vectors, *below, self.dropout(last)]
