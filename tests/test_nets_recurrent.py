"""BiLSTM and BiGRU against torch's own on packed sequences, with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kdpipe.nets.recurrent import Bidirectional, Recurrent
from tests.nets import SENTENCES, twin, words

LENGTHS = torch.tensor([4, 7, 1, 6])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_states_are_those_of_torch_on_packed_sequences(cell, layers):
    torch.manual_seed(0)
    net = Bidirectional(6, 5, layers, cell).double()
    states = torch.randn(4, 7, 6, dtype=torch.float64)
    mask = torch.arange(7)[None] < LENGTHS[:, None]
    rows = pack_padded_sequence(states, LENGTHS, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(twin(net)(rows)[0], batch_first=True)
    torch.testing.assert_close(net(states, mask)[-1], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_as_many_parameters_as_torch(cell):
    net = Bidirectional(228, 100, 2, cell)
    module = twin(net)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in module.parameters())


def test_defaults_are_those_of_the_keras_students():
    net = Recurrent(1000)
    assert net.width == 256
    assert net.words.weight.shape == (1000, 128)
    [cell] = net.layers.rightward
    assert isinstance(cell, nn.LSTM)
    assert (cell.input_size, cell.hidden_size) == (128, 128)
    assert [type(x) for x in Recurrent(9, cell="gru", num_layers=2).layers.leftward] == [nn.GRU] * 2
    assert torch.equal(net(words()), net(words()))  # no dropout


def test_dropout_acts_before_between_and_behind_the_layers():
    torch.manual_seed(0)
    net, shares = Recurrent(50, num_layers=2, dropout=0.3), []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shares.append((inputs[0] == 0).double().mean().item())

    for module in (net.layers.rightward[0], net.layers.rightward[1]):
        module.register_forward_pre_hook(note)
    sentence = words([SENTENCES[0]])
    shares.append((net(sentence) == 0).double().mean().item())
    assert shares == pytest.approx([0.3] * 3, abs=0.05)


def test_the_row_of_padding_is_zero():
    assert not Recurrent(50).words.weight[0].any()
