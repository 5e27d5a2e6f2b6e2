"""A word's vector from its characters: a convolution over them and the maximum of each filter.

Legend: B rows, T words of the longest row, C characters of a word, F filters.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from kdpipe.nets.features import UNKNOWN_CHARACTER
from kdpipe.nets.words import PADDING


class CharacterFilters(nn.Module):
    """NLP Architect's character net; places behind the end of a word are never the maximum."""

    def __init__(self, character_width: int, filters: int, kernel_size: int) -> None:
        super().__init__()
        # No row for padding, whose vector is 0: the id of a character is its row and one.
        self.symbols = nn.Embedding(UNKNOWN_CHARACTER, character_width)
        self.convolution = nn.Conv1d(character_width, filters, kernel_size, padding="same")

    def forward(self, characters: Tensor) -> Tensor:
        """[B, T, F] from `characters [B, T, C]`; 0 where a word has none."""
        flat = characters.flatten(0, 1)
        table = functional.pad(self.symbols.weight, (0, 0, 1, 0))
        vectors = functional.embedding(flat, table).transpose(1, 2)
        found = functional.relu(self.convolution(vectors))
        # After the ReLU 0 is the least value, so it never wins against a character.
        best = found.masked_fill((flat == PADDING).unsqueeze(1), 0.0).amax(-1)
        return best.view(*characters.shape[:2], -1)
