"""ID-CNN against loops over the words of single sentences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdpipe.nets.features import shape_array
from kdpipe.nets.id_cnn import IDCNN
from tests.nets import SENTENCES, SIZE, words

RATES = ("input_dropout", "middle_dropout", "hidden_dropout")


def convolved(convolution: nn.Conv1d, states: list[Tensor]) -> list[Tensor]:
    """A dilated convolution and ReLU by the definition; outside of the row there is nothing."""
    weight, dilation, found = convolution.weight, convolution.dilation[0], []
    for place in range(len(states)):
        here = convolution.get_parameter("bias").clone()
        for tap in range(weight.shape[2]):
            other = place + (tap - weight.shape[2] // 2) * dilation
            if 0 <= other < len(states):
                here = here + weight[:, :, tap] @ states[other]
        found.append(here.clamp(min=0))
    return found


@pytest.mark.parametrize("blocks", [1, 3])
def test_states_are_a_loop_over_the_words_of_each_sentence(blocks):
    torch.manual_seed(0)
    net = IDCNN(SIZE, word_width=5, filters=6, blocks=blocks).double().eval()
    inputs = words()
    states = net(inputs)
    for row, sentence in enumerate(SENTENCES):
        here = [
            torch.cat((net.words.weight[word], net.shapes.weight[shape]))
            for word, shape in zip(inputs.ids[row], shape_array(sentence), strict=False)
        ]
        for convolution in [net.entry, *[*net.dilated] * blocks]:
            here = convolved(convolution, here)
        expected = torch.stack(here)
        torch.testing.assert_close(states[row, : len(sentence)], expected, rtol=0, atol=1e-12)


def test_the_size_is_that_of_nlp_architect():
    # IDCNN(20001, 10) there: 20,000 words and padding; 10 outputs are 9 labels and padding, which
    # needs no label here.
    body = IDCNN(20_001)
    head = nn.Linear(body.width, 10)
    assert sum(p.numel() for net in (body, head) for p in net.parameters()) == 2_189_703
    assert body.width == 128
    assert body.words.weight.shape == (20_001, 100)
    assert body.shapes.weight.shape == (5, 5)
    assert not body.words.weight[0].any()
    assert not body.shapes.weight[0].any()
    assert body.entry.weight.shape == (128, 105, 3)
    assert [x.dilation for x in body.dilated] == [(1,), (2,), (1,)]
    rates = (body.input_dropout, body.middle_dropout, body.hidden_dropout)
    assert rates == (0.35, 0.0, 0.15)
    with_characters = IDCNN(20_001, use_characters=True)
    more = 58 * 16 + 128 * 16 * 3 + 128 + 128 * 128 * 3
    sizes = [sum(p.numel() for p in net.parameters()) for net in (with_characters, body)]
    assert sizes[0] - sizes[1] == more


def test_blocks_share_their_convolutions():
    sizes = {sum(p.numel() for p in IDCNN(9, blocks=blocks).parameters()) for blocks in (1, 4)}
    assert len(sizes) == 1


@pytest.mark.parametrize("place", RATES)
def test_each_dropout_acts(place):
    def both(**rates: float) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        net = IDCNN(SIZE, **{"blocks": 2, **dict.fromkeys(RATES, 0.0), **rates})
        return net(words()), net.eval()(words())

    assert torch.equal(*both())
    assert not torch.equal(*both(**{place: 0.5}))
    if place == "middle_dropout":  # it is between blocks: one block has none
        assert torch.equal(*both(blocks=1, middle_dropout=0.5))
