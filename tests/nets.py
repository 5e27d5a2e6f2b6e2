"""For tests of the small nets: sentences, and torch's recurrent modules with weights of ours."""

from __future__ import annotations

import torch
from torch import nn

from kdpipe.nets.features import character_array, shape_array
from kdpipe.nets.recurrent import Bidirectional
from kdpipe.nets.words import Words

SENTENCES = [
    ["The", "cat,", "aptly", "named", "iPod,", "sleeps", "on", "3", "MATS", "at", "noon", "."],
    ["Rain"],
    ["naive", "cafes", "don't", "sell", "extraordinarily-long", "internationalisations"],
]
VOCABULARY = sorted({word for sentence in SENTENCES for word in sentence})
SIZE = len(VOCABULARY) + 2  # padding and the unknown word


def words(
    sentences: list[list[str]] = SENTENCES,
    more: int = 0,
    characters: int = 12,
    noise: torch.Generator | None = None,
) -> Words:
    """Padded to the longest and `more` places; `noise` fills padded places with anything."""
    width = max(len(sentence) for sentence in sentences) + more
    mask = torch.zeros(len(sentences), width, dtype=torch.bool)
    ids = torch.zeros(mask.shape, dtype=torch.long)
    letters = torch.zeros(*mask.shape, characters, dtype=torch.long)
    shapes = torch.zeros(mask.shape, dtype=torch.long)
    for row, sentence in enumerate(sentences):
        here = slice(len(sentence))
        mask[row, here] = True
        ids[row, here] = torch.tensor([VOCABULARY.index(word) + 2 for word in sentence])
        letters[row, here] = torch.from_numpy(character_array(sentence, characters))
        shapes[row, here] = torch.from_numpy(shape_array(sentence))
    if noise is not None:
        for tensor, high in ((ids, SIZE), (letters, 59), (shapes, 5)):
            anything = torch.randint(high, tensor.shape, generator=noise)
            tensor[~mask] = anything[~mask]
    return Words(ids, mask, letters, shapes)


def twin(net: Bidirectional) -> nn.LSTM | nn.GRU:
    """Torch's own bidirectional module with the same weights, in float64."""
    first = net.rightward[0]
    assert isinstance(first, nn.LSTM | nn.GRU)
    layers = len(net.rightward)
    module = type(first)(
        first.input_size, first.hidden_size, layers, batch_first=True, bidirectional=True
    ).double()
    with torch.no_grad():
        for layer in range(layers):
            for ours, end in ((net.rightward[layer], ""), (net.leftward[layer], "_reverse")):
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    theirs = module.get_parameter(f"{name}_l{layer}{end}")
                    theirs.copy_(ours.get_parameter(f"{name}_l0"))
    return module
