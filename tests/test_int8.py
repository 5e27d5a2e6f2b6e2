"""Linear layers in 8 bits say nearly the same, and how nearly stands in the manifest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity
from transformers import T5Config, T5EncoderModel

from kdpipe.activations import Tokens
from kdpipe.artifact import open_finished
from kdpipe.cache import KIND
from kdpipe.device import pick_dtype
from kdpipe.encoder import Encoder, keep_in, observe
from kdpipe.errors import UsageError
from kdpipe.int8 import Int8Linear
from kdpipe.modules import HeadSpec
from kdpipe.parts import EMBEDDING, Part
from tests.ends import Capture, command
from tests.pieces import new_project, sentences, write_yaml
from tests.tiny import SENTENCES, tiny_encoder, tiny_tokenizer

NEEDS = frozenset({EMBEDDING, Part("hidden", 1)})
FILE = """\
corpora: {text: {sources: [{kind: files, files: [text.txt]}], tokenizer: tiny}}
teachers: {tiny: {model: teacher}}
caches: {said: {corpus: text, teacher: tiny, dtype: int8, targets: [{kind: embedding}]}}
"""


def encoder_of(family: str) -> Encoder:
    if family != "t5":
        return tiny_encoder(family=family)
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 2}
    config = T5Config(vocab_size=tiny_tokenizer().vocabulary, **sizes)
    return Encoder(T5EncoderModel(config), HeadSpec(), [])


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "mpnet", "t5"])
def test_whole_models(family: str) -> None:
    tokens = Tokens.of(tiny_tokenizer().encode([*SENTENCES[:8]], 32), 0)
    encoder = encoder_of(family)
    exact = observe(encoder, tokens, NEEDS, "fp32")
    keep_in(encoder, "int8")
    assert not any(type(module) is nn.Linear for module in encoder.model.modules())
    rough = observe(encoder, tokens, NEEDS, "int8")
    for part in NEEDS:
        assert rough[part].dtype == torch.float32
        assert not torch.equal(rough[part], exact[part])
        assert float(cosine_similarity(rough[part], exact[part]).min()) > 0.98
    keep_in(encoder, "int8")
    again = observe(encoder, tokens, NEEDS, "int8")
    assert all(torch.equal(again[part], rough[part]) for part in NEEDS)


@pytest.mark.parametrize("bias", [True, False])
def test_one_layer_is_off_by_half_a_step_of_each_factor(bias: bool) -> None:
    torch.manual_seed(0)
    layer, states = nn.Linear(64, 48, bias=bias), torch.randn(5, 7, 64)
    weight = layer.weight.detach()
    of_states = float(states.max() - states.min()) / 255 / 2
    of_weight = weight.abs().amax(1) / 127 / 2
    most = states.abs().sum(-1, keepdim=True) * of_weight + weight.abs().sum(1) * of_states
    most += 64 * of_states * of_weight
    off = (Int8Linear(layer)(states) - layer(states)).abs()
    assert (off <= 1.001 * most).all()
    assert off.max() > 0


def test_the_cpu_alone_has_it() -> None:
    assert pick_dtype("int8", torch.device("cpu")) == "int8"
    line = "^dtype int8 is not there on meta: use auto, bf16 or fp32$"
    with pytest.raises(UsageError, match=line):
        pick_dtype("int8", torch.device("meta"))


def test_the_manifest_says_how_far_it_is_from_fp32(project: Path, capsys: Capture) -> None:
    new_project(project, sentences(60))
    write_yaml(project / "pipeline.yaml", FILE)
    command(["tokenize", "pipeline.yaml"])
    command(["cache-teacher", "--dry-run", "pipeline.yaml"])
    command(["cache-teacher", "pipeline.yaml"])
    manifest, _ = open_finished(project / "artifacts/caches/said", KIND, "")
    difference = manifest.facts["difference"]
    assert manifest.facts["dtype"] == "int8"
    assert 0.9 < difference["min_cosine"] < 1.0
    assert f"in int8 (cosine to fp32 at least {difference['min_cosine']:.5f} on 32 rows)" in (
        capsys.readouterr().err
    )
