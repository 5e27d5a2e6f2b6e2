"""Queries, keys and values at the projections: the same in every family, however attention goes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoConfig, AutoModel

from kdpipe.activations import Tokens
from kdpipe.encoder import Encoder, observe
from kdpipe.errors import UsageError
from kdpipe.modules import HeadSpec
from kdpipe.parts import Part
from kdpipe.taps import PROJECTIONS

WIDTH, HEADS, LAYERS = 24, 4, 3
SIZES = {
    "vocab_size": 50,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
}
OTHER = {
    "albert": {"embedding_size": 16},
    "distilbert": {"dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 48},
    "electra": {"embedding_size": WIDTH},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
}
THREE = ("query", "key", "value")
NEEDS = frozenset(Part(name, layer) for name in THREE for layer in (1, 3))


def encoder(family: str, attention: str | None = None) -> Encoder:
    torch.manual_seed(0)
    sizes = {} if family == "distilbert" else SIZES
    config = AutoConfig.for_model(family, **{**sizes, **OTHER.get(family, {})})
    if family == "distilbert":
        config.vocab_size, config.max_position_embeddings = 50, 40
    if family == "modernbert":
        config.pad_token_id = config.cls_token_id = config.sep_token_id = 0
        config.bos_token_id = config.eos_token_id = 0
    model = AutoModel.from_config(config, attn_implementation=attention)
    return Encoder(model, HeadSpec(), []).eval()


def tokens(*lengths: int) -> Tokens:
    torch.manual_seed(1)
    return Tokens(torch.randint(3, 50, (sum(lengths),)), torch.tensor(lengths))


def by_hand(encoder: Encoder, family: str, rows: Tokens, part: Part) -> torch.Tensor:
    """From the layer's input, taken by a hook on the attention, times the projection's weights."""
    name = {"query": 0, "key": 1, "value": 2}[part.name]
    ends = PROJECTIONS[family]
    end = ends[0] if len(ends) == 1 else ends[name]
    found = [m for n, m in encoder.base.named_modules() if f".{n}".endswith(f".{end}")]
    inputs = []
    for module in found:
        module.register_forward_hook(lambda m, i, o: inputs.append((m, i[0])))
    with torch.no_grad():
        encoder.base(input_ids=rows.padded(0), attention_mask=rows.mask().long())
    module, states = inputs[part.layer - 1]
    said = states @ module.weight.T
    said = said if module.bias is None else said + module.bias
    if len(ends) == 1:
        said = said.view(*said.shape[:2], 3, -1)[:, :, name]
    flat: torch.Tensor = said[rows.mask()]
    return flat


@pytest.mark.parametrize("family", PROJECTIONS)
@pytest.mark.parametrize("name", THREE)
def test_projections_are_those_of_the_model(family: str, name: str) -> None:
    rows, part = tokens(5, 9, 2), Part(name, 3)
    said = observe(encoder(family), rows, frozenset({part}), "fp32")
    wanted = by_hand(encoder(family), family, rows, part)
    assert said[part].shape == wanted.shape
    torch.testing.assert_close(said[part], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", PROJECTIONS)
def test_layers_differ_and_padding_does_not_matter(family: str) -> None:
    rows = tokens(5, 9, 2)
    said = observe(encoder(family), rows, NEEDS, "fp32")
    assert said.values.keys() == NEEDS
    assert not torch.allclose(said[Part("query", 1)], said[Part("query", 3)], atol=1e-3)
    alone = observe(encoder(family), rows.take(torch.tensor([2])), NEEDS, "fp32")
    for part in NEEDS:
        torch.testing.assert_close(alone[part], said[part][14:], rtol=0, atol=1e-5)


def test_the_same_under_every_attention() -> None:
    rows = tokens(5, 9, 2)
    eager, sdpa = (observe(encoder("bert", how), rows, NEEDS, "fp32") for how in ("eager", "sdpa"))
    for part in NEEDS:
        torch.testing.assert_close(eager[part], sdpa[part], rtol=0, atol=1e-6)


def test_scores_are_those_of_eager_attention() -> None:
    """Softmax of Q K^T / sqrt(d) is what the model says its attention is."""
    one, rows = encoder("bert", "eager"), tokens(7)
    said = observe(one, rows, NEEDS, "fp32")
    with torch.no_grad():
        attention = one.base(input_ids=rows.padded(0), output_attentions=True).attentions[2][0]
    queries, keys = (
        said[Part(name, 3)].view(7, HEADS, -1).transpose(0, 1) for name in ("query", "key")
    )
    scores = queries @ keys.transpose(1, 2) / (WIDTH / HEADS) ** 0.5
    torch.testing.assert_close(scores.softmax(-1), attention, rtol=0, atol=1e-6)


def test_gradients_reach_the_projections() -> None:
    one = encoder("bert")
    one(tokens(4, 3), NEEDS)[Part("value", 3)].sum().backward()
    layer = "encoder.layer.2.attention.self"
    value, query = (one.base.get_parameter(f"{layer}.{n}.weight") for n in ("value", "query"))
    assert value.grad is not None
    assert value.grad.abs().sum() > 0
    assert query.grad is None


def test_passes_in_several_threads_do_not_mix() -> None:
    one, rows = encoder("bert"), [tokens(n, n + 1) for n in range(1, 20)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda row: observe(one, row, NEEDS, "fp32"), rows))
    for row, said in zip(rows, together, strict=True):
        alone = observe(one, row, NEEDS, "fp32")
        for part in NEEDS:
            torch.testing.assert_close(alone[part], said[part], rtol=0, atol=1e-5)


def test_a_family_without_a_row_is_refused_in_one_line() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("ernie", **SIZES)
    one = Encoder(AutoModel.from_config(config), HeadSpec(), []).eval()
    with pytest.raises(UsageError, match="queries, keys and values of a 'ernie' model cannot be"):
        observe(one, tokens(4), NEEDS, "fp32")
