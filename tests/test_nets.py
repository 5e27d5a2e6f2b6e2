"""What holds for every small net: padding changes nothing, all of it trains, and it comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdpipe.nets.attention import Attention
from kdpipe.nets.cnn_lstm import CNNLSTM
from kdpipe.nets.id_cnn import IDCNN
from kdpipe.nets.recurrent import Recurrent
from kdpipe.nets.words import Words
from tests.nets import SENTENCES, SIZE, words

NETS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Recurrent(SIZE, word_width=6, hidden_size=5, num_layers=2, dropout=0.2),
    "gru": lambda: Recurrent(SIZE, word_width=6, hidden_size=5, num_layers=2, cell="gru"),
    "attention": lambda: Attention(
        SIZE, hidden_size=7, num_layers=2, num_attention_heads=3, head_size=4, dropout=0.2
    ),
    "cnn-lstm": lambda: CNNLSTM(SIZE, word_width=6, character_filters=7, hidden_size=5),
    "id-cnn": lambda: IDCNN(SIZE, word_width=6, filters=9, blocks=2, middle_dropout=0.1),
    "id-cnn, characters": lambda: IDCNN(
        SIZE, filters=9, use_characters=True, character_filters=7, kernel_size=5
    ),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(1)
    return NETS[name]().double()


def gradients(net: nn.Module, inputs: Words) -> tuple[Tensor, list[Tensor]]:
    """States of real words, and the gradient of a function of them in every parameter."""
    states = net(inputs)[inputs.mask]
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(3)).double()
    (states * weights).sum().backward()
    found = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    return states.detach(), found


@pytest.mark.parametrize("name", NETS)
def test_padding_changes_neither_states_nor_gradients(name):
    net = build(name).eval()
    states, grads = gradients(net, words())
    for padded in (
        words(more=5),
        words(noise=torch.Generator().manual_seed(4)),
        words(more=3, noise=torch.Generator().manual_seed(5)),
    ):
        others, other_grads = gradients(net, padded)
        torch.testing.assert_close(others, states, rtol=0, atol=1e-12)
        torch.testing.assert_close(other_grads, grads, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", NETS)
def test_a_row_alone_is_the_row_in_a_batch(name):
    net = build(name).eval()
    together = net(words())
    for row, sentence in enumerate(SENTENCES):
        alone = net(words([sentence]))[0]
        torch.testing.assert_close(together[row, : len(sentence)], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [False, True])
def test_states_are_of_the_width_and_zero_at_padding(name, training):
    net = build(name).train(training)
    inputs = words(more=2, noise=torch.Generator().manual_seed(4))
    states = net(inputs)
    assert states.shape == (*inputs.ids.shape, net.width)
    assert torch.count_nonzero(states[~inputs.mask]) == 0
    assert all(torch.count_nonzero(state) for state in states[inputs.mask])


@pytest.mark.parametrize("name", NETS)
def test_a_row_without_words_is_zero_and_harms_no_other(name):
    net = build(name).eval()
    states = net(words([SENTENCES[0], [], SENTENCES[2]]))
    assert torch.count_nonzero(states[1]) == 0
    torch.testing.assert_close(
        states[[0, 2]], net(words([SENTENCES[0], SENTENCES[2]])), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", NETS)
def test_every_parameter_gets_a_gradient_and_padding_none(name):
    net = build(name)
    names, parameters = zip(*net.named_parameters(), strict=True)
    grads = torch.autograd.grad(net(words()).square().sum(), parameters)
    found = dict(zip(names, grads, strict=True))
    assert [name for name, grad in found.items() if not grad.any()] == []
    assert torch.count_nonzero(found["words.weight"][0]) == 0


@pytest.mark.parametrize("name", NETS)
def test_a_round_trip_through_safetensors_is_exact(name, tmp_path: Path):
    net = build(name).eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    other = NETS[name]().double().eval()
    assert not torch.equal(other(words()), net(words()))
    other.load_state_dict(load_file(tmp_path / "net.safetensors"), strict=True)
    assert torch.equal(other(words()), net(words()))


@pytest.mark.parametrize("name", NETS)
def test_the_same_seed_gives_the_same_bytes(name):
    results = []
    for _ in range(2):
        states, grads = gradients(build(name).train(), words())
        results.append([states, *grads])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["lstm", "attention", "cnn-lstm", "id-cnn"])
def test_dropout_acts_in_training_only(name):
    net = build(name)
    assert torch.equal(net.eval()(words()), net(words()))
    assert not torch.equal(net.train()(words()), net(words()))


@pytest.mark.parametrize("name", ["cnn-lstm", "id-cnn, characters"])
def test_room_for_characters_that_no_word_has_changes_nothing(name):
    net = build(name).eval()
    short = [["The", "cat,", "on"], ["Rain"]]
    states, grads = gradients(net, words(short, characters=4))
    others, other_grads = gradients(net, words(short, characters=9))
    torch.testing.assert_close(others, states, rtol=0, atol=1e-12)
    torch.testing.assert_close(other_grads, grads, rtol=0, atol=1e-11)


def test_words_go_to_a_device_with_all_they_have():
    inputs = words()
    moved = inputs.to(torch.device("meta"))
    tensors = (moved.ids, moved.mask, moved.characters, moved.shapes)
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 4
    assert moved.characters.shape == inputs.characters.shape
    bare = Words(inputs.ids, inputs.mask).to(torch.device("cpu"))
    assert bare.characters is None
    assert bare.shapes is None
