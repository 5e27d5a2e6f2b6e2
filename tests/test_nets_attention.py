"""Attention alone against torch's own module and a loop over places."""

from __future__ import annotations

import math

import torch
from torch import nn

from kdpipe.nets.attention import Attention, AttentionLayer, places
from tests.nets import words

MASK = torch.tensor(
    [[True] * 5, [True, True, False, False, False], [True, True, True, True, False]]
)


def test_a_layer_is_that_of_torch_with_a_sum_and_a_normalisation() -> None:
    torch.manual_seed(0)
    layer = AttentionLayer(12, 3, 4, 0.0).double()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    three = (layer.query, layer.key, layer.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([one.weight for one in three]))
        theirs.in_proj_bias.copy_(torch.cat([one.bias for one in three]))
        theirs.out_proj.load_state_dict(layer.output.state_dict())
    states = torch.randn(3, 5, 12, dtype=torch.float64)
    added, _ = theirs(states, states, states, key_padding_mask=~MASK)
    wanted = layer.norm(states + added)
    torch.testing.assert_close(layer(states, MASK)[MASK], wanted[MASK], rtol=0, atol=1e-12)


def test_heads_may_be_wider_than_a_state() -> None:
    torch.manual_seed(0)
    layer = AttentionLayer(6, 2, 5, 0.0).double()
    states = torch.randn(1, 4, 6, dtype=torch.float64)
    query, key, value = (one(states[0]) for one in (layer.query, layer.key, layer.value))
    read = torch.zeros(4, 10, dtype=torch.float64)
    for head in (slice(0, 5), slice(5, 10)):
        for place in range(4):
            scores = key[:, head] @ query[place, head] / math.sqrt(5)
            read[place, head] = scores.softmax(0) @ value[:, head]
    wanted = layer.norm(states[0] + layer.output(read))
    found = layer(states, torch.ones(1, 4, dtype=torch.bool))[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_places_are_waves() -> None:
    for width in (4, 5):
        found = places(torch.empty(2, 3, width, dtype=torch.float64))
        assert found.shape == (3, width)
        half = width - width // 2
        for place in range(3):
            for wave in range(width):
                step = wave if wave < half else wave - half
                angle = place / 10_000 ** (2 * step / width)
                wanted = math.sin(angle) if wave < half else math.cos(angle)
                assert abs(found[place, wave].item() - wanted) < 1e-6


def test_the_order_of_words_matters() -> None:
    torch.manual_seed(0)
    net = Attention(50).eval()
    one, other = (net(words([row]))[0] for row in (["Rain", "on", "MATS"], ["MATS", "on", "Rain"]))
    assert not torch.allclose(one.sum(0), other.sum(0), atol=1e-3)


def test_defaults_are_those_of_the_keras_student() -> None:
    net = Attention(1000)
    assert net.words.weight.shape == (1000, 128)
    [layer] = net.layers
    assert isinstance(layer, AttentionLayer)
    assert (layer.heads, layer.query.weight.shape) == (4, (512, 128))
    assert layer.output.weight.shape == (128, 512)
    assert torch.equal(net(words()), net(words()))  # no dropout


def test_a_row_without_words_has_a_gradient_of_numbers() -> None:
    net = Attention(50)
    net(words([["Rain"], []])).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
