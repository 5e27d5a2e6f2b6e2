"""CNN-LSTM and its character filters against loops over single words and single sentences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdpipe.nets.characters import CharacterFilters
from kdpipe.nets.cnn_lstm import CNNLSTM
from kdpipe.nets.features import characters_of
from tests.nets import SENTENCES, SIZE, twin, words


def filtered(net: CharacterFilters, word: str) -> Tensor:
    """By the definition: each filter at each character, the greatest, and 0 if that is below."""
    weight, bias = net.convolution.weight, net.get_parameter("convolution.bias")
    filters, _, size = weight.shape
    vectors = [net.symbols.weight[number - 1] for number in characters_of(word)]
    result = torch.zeros(filters, dtype=weight.dtype)
    for place in range(len(vectors)):
        here = bias.clone()
        for tap in range(size):
            other = place + tap - size // 2
            if 0 <= other < len(vectors):
                here = here + weight[:, :, tap] @ vectors[other]
        result = torch.maximum(result, here)
    return result


def test_character_filters_are_a_loop_over_the_characters_of_a_word():
    torch.manual_seed(0)
    net = CharacterFilters(4, 6, 3).double()
    found = net(words().characters)
    for row, sentence in enumerate(SENTENCES):
        for place, word in enumerate(sentence):
            expected = filtered(net, word[:12])
            torch.testing.assert_close(found[row, place], expected, rtol=0, atol=1e-13)
    assert torch.count_nonzero(found[1, 1:]) == 0


def test_a_word_of_the_first_letter_is_told_from_padding():
    torch.manual_seed(0)
    net = CharacterFilters(4, 6, 3)
    a, b, nothing = net(torch.tensor([[characters_of("a"), characters_of("b"), [0]]]))[0]
    assert a.any()
    assert not torch.equal(a, b)
    assert not nothing.any()
    [gradient] = torch.autograd.grad(a.sum(), net.symbols.weight)
    assert gradient[0].any()  # it trains, as NLP Architect's row of 'a' does not


def test_states_are_those_of_torch_for_each_sentence_alone():
    torch.manual_seed(0)
    net = CNNLSTM(SIZE, word_width=5, character_filters=6, hidden_size=4).double().eval()
    reference, inputs = twin(net.layers), words()
    states = net(inputs)
    for row, sentence in enumerate(SENTENCES):
        vectors = [
            torch.cat((net.words.weight[number], filtered(net.characters, word[:12])))
            for number, word in zip(inputs.ids[row], sentence, strict=False)
        ]
        expected = reference(torch.stack(vectors)[None])[0][0]
        torch.testing.assert_close(states[row, : len(sentence)], expected, rtol=0, atol=1e-12)


def test_the_size_is_that_of_nlp_architect():
    # CNNLSTM(20001, 10) there: 20,000 words and padding; 10 outputs are 9 labels and padding. We
    # need no label of padding, and 58 rows of characters are 57 symbols and the unknown one, where
    # there 'a' shares its row with padding.
    body = CNNLSTM(20_001)
    head = nn.Linear(body.width, 10)
    assert sum(p.numel() for net in (body, head) for p in net.parameters()) == 2_514_910
    assert body.words.weight.shape == (20_001, 100)
    assert body.characters.symbols.weight.shape == (58, 16)
    assert body.characters.convolution.weight.shape == (128, 16, 3)
    assert [x.input_size for x in body.layers.rightward] == [228, 200]
    assert (body.width, body.dropout.p) == (200, 0.5)
    assert not body.words.weight[0].any()


def test_dropout_acts_before_and_behind_the_lstm_and_not_within():
    torch.manual_seed(0)
    net, shares = CNNLSTM(SIZE), []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shares.append((inputs[0][:, :, :100] == 0).double().mean().item())

    for module in net.layers.rightward:
        module.register_forward_pre_hook(note)
    shares.append((net(words([SENTENCES[0]])) == 0).double().mean().item())
    assert shares == pytest.approx([0.5, 0.0, 0.5], abs=0.05)
