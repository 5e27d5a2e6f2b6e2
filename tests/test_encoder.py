from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as st
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from kdpipe.activations import Dims, Tokens
from kdpipe.device import Dtype
from kdpipe.encoder import ACTIVATIONS, Dense, Encoder, ask, embed, keep_in, observe, pool
from kdpipe.errors import ArtifactError
from kdpipe.load import load_encoder
from kdpipe.modules import FLAGS, POOLINGS, HeadSpec, default_prompt, head_of
from kdpipe.parts import EMBEDDING, Part
from kdpipe.tokenizer import Text, load_tokenizer
from tests.tiny import SENTENCES, tiny_encoder, tiny_teacher_folder, tiny_tokenizer

FAMILIES = ["bert", "roberta", "distilbert", "mpnet", "modernbert"]
TEXTS = [*SENTENCES[:10], "", "the cat " * 10]
Vectors = npt.NDArray[np.float32]
PAIRS = [*zip(SENTENCES[:8:2], SENTENCES[1:8:2], strict=True), ("", "A dog."), ("A dog.", "")]


def tokens_of(texts: list[Text], prompt_tokens: int = 0, limit: int = 32) -> Tokens:
    """Texts or pairs as the tiny tokenizer reads them."""
    found = tiny_tokenizer().encode(texts, limit)
    return Tokens.of(found, prompt_tokens)


def pooled_by_hand(states: Tensor, first: int, name: str) -> list[float]:
    """One row of states [T, D] of real tokens to one vector; tokens before `first` do not count."""
    kept = [[float(value) for value in state] for state in states]
    if name in ("cls", "lasttoken"):
        return kept[first] if name == "cls" else kept[-1]
    vector = []
    for column in zip(*kept, strict=True):
        places = range(first, len(column))
        if name == "max":
            vector.append(max(column[place] for place in places))
        elif name == "weightedmean":
            total = math.fsum((place + 1) * column[place] for place in places)
            vector.append(total / sum(place + 1 for place in places))
        else:
            count = len(places)
            divisor = math.sqrt(count) if name == "mean_sqrt_len" else count
            vector.append(math.fsum(column[place] for place in places) / divisor)
    return vector


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_is_what_its_name_says(name: str, first: int) -> None:
    torch.manual_seed(0)
    states, lengths = torch.randn(4, 7, 5), torch.tensor([7, 3, 5, 4])
    mask = torch.arange(7) < lengths[:, None]
    mask[:, :first] = False
    found = pool(states, mask, lengths, name)
    wanted = [
        pooled_by_hand(state[:length], first, name)
        for state, length in zip(states.double(), lengths, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_alone_is_the_row_in_a_batch(family: str) -> None:
    encoder = tiny_encoder(layers=3, family=family)
    encoder = Encoder(encoder.model, HeadSpec(POOLINGS, include_prompt=False), []).eval()
    texts = [f"the cat: {text}" for text in TEXTS]
    tokens = tokens_of([*texts], prompt_tokens=4)
    needs = frozenset({EMBEDDING, Part("hidden", 0), Part("hidden", 1), Part("hidden", 3)})
    together = observe(encoder, tokens, needs, "fp32")
    assert together[EMBEDDING].shape == (len(TEXTS), 6 * 32)
    starts = [0, *tokens.lengths.cumsum(0).tolist()]
    for index, text in enumerate(texts):
        alone = observe(encoder, tokens_of([text], prompt_tokens=4), needs, "fp32")
        row = together[EMBEDDING][index]
        torch.testing.assert_close(alone[EMBEDDING][0], row, rtol=0, atol=1e-5)
        assert alone.values.keys() == needs
        for layer in (0, 1, 3):
            values = alone[Part("hidden", layer)]
            part = together[Part("hidden", layer)][starts[index] : starts[index + 1]]
            torch.testing.assert_close(values, part, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_alone_and_in_a_batch(family: str) -> None:
    encoder = tiny_encoder(family=family)
    together = embed(encoder, tokens_of([*PAIRS]), "fp32")
    for index, pair in enumerate(PAIRS):
        alone = embed(encoder, tokens_of([pair]), "fp32")
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-6)


def test_the_second_text_of_a_pair_has_another_type() -> None:
    tokens = tokens_of([("A dog waits.", "A cat sleeps.")])
    without = Tokens(tokens.ids, tokens.lengths)
    bert, roberta = tiny_encoder(family="bert"), tiny_encoder(family="roberta")
    assert not torch.allclose(embed(bert, tokens, "fp32"), embed(bert, without, "fp32"), atol=1e-3)
    assert torch.equal(embed(roberta, tokens, "fp32"), embed(roberta, without, "fp32"))


def test_hidden_states_are_those_of_the_model() -> None:
    encoder, tokens = tiny_encoder(layers=2), tokens_of([*SENTENCES[:3]])
    said = observe(encoder, tokens, frozenset({Part("hidden", 2)}), "fp32")
    assert said.values.keys() == {Part("hidden", 2)}
    with torch.no_grad():
        states = encoder.model(
            input_ids=tokens.padded(0), attention_mask=tokens.mask().long()
        ).last_hidden_state
    wanted = torch.cat([state[:n] for state, n in zip(states, tokens.lengths, strict=True)])
    torch.testing.assert_close(said[Part("hidden", 2)], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("budget", [1, 60, 100_000])
def test_embeddings_keep_the_order_of_their_rows(budget: int) -> None:
    encoder, tokens = tiny_encoder(), tokens_of([*SENTENCES])
    found = ask(encoder, tokens, EMBEDDING, "fp32", tokens_per_batch=budget)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(60), rtol=0, atol=1e-6)
    for index in (0, 17, 59):
        alone = embed(encoder, tokens_of([SENTENCES[index]]), "fp32")
        torch.testing.assert_close(found[index], alone[0], rtol=0, atol=1e-6)


def test_looking_switches_dropout_and_gradients_off() -> None:
    encoder, tokens = tiny_encoder(), tokens_of([*SENTENCES[:4]])
    encoder.train()
    first = embed(encoder, tokens, "fp32")
    encoder.train()
    assert torch.equal(embed(encoder, tokens, "fp32"), first)
    assert not first.requires_grad


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_other_number_types_say_nearly_the_same_in_fp32_values(dtype: Dtype) -> None:
    encoder, tokens = tiny_encoder(), tokens_of([*SENTENCES[:8]])
    needs = frozenset({EMBEDDING, Part("hidden", 1)})
    rough, exact = (observe(encoder, tokens, needs, used) for used in (dtype, "fp32"))
    assert rough[EMBEDDING].dtype == rough[Part("hidden", 1)].dtype == torch.float32
    assert not torch.equal(rough[EMBEDDING], exact[EMBEDDING])
    assert float((rough[EMBEDDING] * exact[EMBEDDING]).sum(1).min()) > 0.999
    keep_in(encoder, dtype)
    kept = observe(encoder, tokens, needs, dtype)
    assert all(torch.equal(kept[part], rough[part]) for part in needs)


def test_dims() -> None:
    model = tiny_encoder(layers=3, family="distilbert").model
    assert Encoder(model, HeadSpec(("cls", "max")), []).dims == Dims(64, 32, 3, 4)
    dense = [Dense(32, 48), Dense(48, 7)]
    assert Encoder(model, HeadSpec(), dense).dims == Dims(7, 32, 3, 4)


def said_by_both(folder: Path, texts: list[str]) -> tuple[Vectors, Vectors]:
    """What kdpipe and what sentence-transformers say about texts, prompt and all."""
    encoder, tokenizer = load_encoder(folder, head_of(folder)), load_tokenizer(folder)
    prompt = default_prompt(folder)
    found = tokenizer.encode([prompt + text for text in texts], 32)
    tokens = Tokens.of(found, tokenizer.count(prompt))
    reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    ours = embed(encoder, tokens, "fp32").numpy()
    return ours, np.asarray(reference.encode(texts, show_progress_bar=False))


def settings(folder: Path, prompt: str | None, pooling: dict[str, Any]) -> None:
    config = {"prompts": {"q": prompt}, "default_prompt_name": "q" if prompt else None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32} | pooling)
    )


@pytest.mark.parametrize("prompt", [None, "the answer: "])
@pytest.mark.parametrize("name", POOLINGS)
def test_every_pooling_is_that_of_sentence_transformers(
    tmp_path: Path, name: str, prompt: str | None
) -> None:
    folder = tiny_teacher_folder(tmp_path / "model")
    flags = {flag: flag == FLAGS[name] for flag in FLAGS.values()}
    settings(folder, prompt, flags | {"include_prompt": prompt is None})
    ours, theirs = said_by_both(folder, TEXTS)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_that_of_sentence_transformers(tmp_path: Path, family: str) -> None:
    folder = tiny_teacher_folder(tmp_path / "model", family=family)
    settings(folder, "the cat: ", {"pooling_mode_mean_tokens": True, "include_prompt": True})
    ours, theirs = said_by_both(folder, TEXTS)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("activations", [["Tanh"], ["Identity", "ReLU"], ["GELU"]], ids="-".join)
def test_a_folder_that_sentence_transformers_saved_says_the_same(
    tmp_path: Path, activations: list[str], normalize: bool
) -> None:
    torch.manual_seed(1)
    inner = tiny_teacher_folder(tmp_path / "inner")
    modules: list[nn.Module] = [st.Transformer(str(inner)), st.Pooling(32, ("mean", "cls"))]
    width = 64
    for index, activation in enumerate(activations):
        function = ACTIVATIONS[activation]()
        modules.append(st.Dense(width, 40, bias=index == 0, activation_function=function))
        width = 40
    modules += [st.Normalize()] if normalize else []
    prompts = {"query": "the cat: "}
    whole = SentenceTransformer(modules=modules, prompts=prompts, default_prompt_name="query")
    whole.save(str(tmp_path / "whole"), create_model_card=False)
    head = head_of(tmp_path / "whole")
    assert head.pooling == ("mean", "cls")
    assert (len(head.dense), head.normalize) == (len(activations), normalize)
    ours, theirs = said_by_both(tmp_path / "whole", TEXTS)
    assert ours.shape == (len(TEXTS), 40)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


def test_the_head_of_the_caller_is_taken(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "model")
    encoder = load_encoder(folder, head_of(folder, pooling="max", normalize=False))
    tokens = tokens_of([*SENTENCES[:3]])
    said = observe(encoder, tokens, frozenset({EMBEDDING, Part("hidden", 2)}), "fp32")
    states = torch.split(said[Part("hidden", 2)], tokens.lengths.tolist())
    assert torch.equal(said[EMBEDDING], torch.stack([state.amax(0) for state in states]))
    assert not encoder.training


def test_a_decoder_is_no_teacher(tmp_path: Path) -> None:
    model = GPT2Model(GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path / "decoder")
    with pytest.raises(ArtifactError) as caught:
        load_encoder(tmp_path / "decoder", HeadSpec())
    assert str(caught.value) == (
        f"{tmp_path / 'decoder'} is a 'gpt2' model, which is no text encoder: use one such as"
        " BERT, or a folder with sentence-transformers modules"
    )


@pytest.mark.parametrize(
    ("file", "data", "reason"),
    [
        ("config.json", b'{"model_type": "no-such"}', "config.json cannot be read ("),
        ("config.json", b'{"hidden_size": 8}', "config.json cannot be read ("),
        (
            "config.json",
            b'{"model_type": "bert", "hidden_size": "8"}',
            "config.json cannot be read (",
        ),
        ("config.json", b'{"model_type": "bert", "num_attention_heads": 0}', "the model cannot be"),
        ("model.safetensors", b"\x10\0\0\0", "the model cannot be loaded ("),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, file: str, data: bytes, reason: str) -> None:
    folder = tiny_teacher_folder(tmp_path / "model")
    (folder / file).write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        load_encoder(folder, HeadSpec())
    assert str(caught.value).startswith(f"{folder}: {reason}")
    assert "\n" not in str(caught.value)


def test_weights_of_a_smaller_model_are_refused(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "model", layers=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ArtifactError) as caught:
        load_encoder(folder, HeadSpec())
    assert str(caught.value) == (
        f"{folder}: its weights lack encoder.layer.2.attention.output.LayerNorm.bias,"
        " which config.json asks for"
    )


def test_weights_without_a_pooler_are_whole(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "model")
    wanted = embed(load_encoder(folder, HeadSpec()), tokens_of([*SENTENCES]), "fp32")
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "pooler" not in name}
    assert len(kept) == len(weights) - 2
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    found = embed(load_encoder(folder, HeadSpec()), tokens_of([*SENTENCES]), "fp32")
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"activation_function": "torch.nn.modules.activation.SiLU"},
            ": activation 'SiLU': allowed: Identity, Tanh, ReLU, GELU",
        ),
        ({"use_residual": True}, ": a dense module with use_residual is not known"),
        ({"out_features": 9}, ": the dense module cannot be loaded ("),
    ],
)
def test_a_dense_module_that_is_not_known_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    st.Dense(32, 32).save(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    folder = tiny_teacher_folder(tmp_path / "model")
    with pytest.raises(ArtifactError) as caught:
        load_encoder(folder, HeadSpec(dense=(tmp_path,)))
    assert str(caught.value).startswith(f"{tmp_path}{reason}")
    assert "\n" not in str(caught.value)
