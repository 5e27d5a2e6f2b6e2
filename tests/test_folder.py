from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import AutoModel, AutoTokenizer

from kdpipe.activations import Tokens
from kdpipe.encoder import Dense, Encoder, embed
from kdpipe.folder import write_model
from kdpipe.load import load_encoder
from kdpipe.modules import FLAGS, POOLINGS, HeadSpec, default_prompt, head_of, own_limit
from kdpipe.tokenizer import Tokenizer, load_tokenizer
from tests.tiny import SENTENCES, tiny_encoder, tiny_tokenizer

FAMILIES = ["bert", "roberta", "distilbert", "mpnet", "modernbert"]
TEXTS = [*SENTENCES[:12], "", "the cat " * 30]
LIMIT = 24
FILES = [
    "1_Pooling/config.json",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


def with_head(
    family: str = "bert",
    pooling: tuple[str, ...] = ("mean",),
    *,
    include_prompt: bool = True,
    normalize: bool = False,
    dense: tuple[str, ...] = (),
) -> Encoder:
    """A tiny encoder with this head; dense layers by their activations, the second without bias."""
    layers, width = [], 32 * len(pooling)
    torch.manual_seed(3)
    for index, activation in enumerate(dense):
        layers.append(Dense(width, 20, bias=index == 0, activation=activation))
        width = 20
    head = HeadSpec(pooling, include_prompt=include_prompt, normalize=normalize)
    return Encoder(tiny_encoder(family=family).model, head, layers).eval()


def written(folder: Path, encoder: Encoder, prompt: str = "") -> list[str]:
    return write_model(folder, encoder, tiny_tokenizer(), max_seq_length=LIMIT, prompt=prompt)


def vectors(encoder: Encoder, tokenizer: Tokenizer, prompt: str) -> npt.NDArray[np.float32]:
    """[B, D]: what kdpipe says about TEXTS."""
    found = tokenizer.encode([prompt + text for text in TEXTS], LIMIT)
    return embed(encoder, Tokens.of(found, tokenizer.count(prompt)), "fp32").numpy()


def content(path: Path) -> Any:
    return json.loads(path.read_text())


HEADS = [
    *({"pooling": (name,)} for name in POOLINGS),
    {"pooling": POOLINGS, "normalize": True},
    {"pooling": ("cls", "mean"), "dense": ("Tanh",), "normalize": True},
    {"pooling": ("max",), "dense": ("Identity", "GELU")},
    {"dense": ("ReLU", "Tanh", "Identity"), "normalize": True},
    {"pooling": ("mean", "max", "mean_sqrt_len"), "normalize": True},
]


@pytest.mark.parametrize("prompt", ["", "the answer: "])
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_a_head_says_the_same_in_kdpipe_and_in_sentence_transformers(
    tmp_path: Path, head: dict[str, Any], prompt: str
) -> None:
    encoder = with_head(**head, include_prompt=not prompt)
    names = written(tmp_path / "model", encoder, prompt)
    folder = tmp_path / "model"
    assert names == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    wanted = vectors(encoder, tiny_tokenizer(), prompt)
    loaded, tokenizer = load_encoder(folder, head_of(folder)), load_tokenizer(folder)
    assert default_prompt(folder) == prompt
    assert own_limit(folder) == LIMIT
    np.testing.assert_array_equal(vectors(loaded, tokenizer, prompt), wanted)
    reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert reference.max_seq_length == LIMIT
    theirs = reference.encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(theirs, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_says_the_same_in_plain_transformers(tmp_path: Path, family: str) -> None:
    encoder = with_head(family, normalize=True)
    written(tmp_path, encoder)
    model, loading = AutoModel.from_pretrained(
        tmp_path, local_files_only=True, output_loading_info=True
    )
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert next(model.parameters()).dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert tokenizer.model_max_length == LIMIT
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        states = model.eval()(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    found = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    wanted = vectors(encoder, tiny_tokenizer(), "")
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-5)
    reference = SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    theirs = reference.encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(theirs, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizer_stays_what_it_is(tmp_path: Path, family: str) -> None:
    written(tmp_path, with_head(family))
    loaded, tokenizer = load_tokenizer(tmp_path), tiny_tokenizer()
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.special == tokenizer.special
    types = ["token_type_ids"] if family == "bert" else []
    assert list(loaded.input_names) == ["input_ids", *types, "attention_mask"]
    spec = content(tmp_path / "tokenizer.json")
    assert (spec["truncation"], spec["padding"]) == (None, None)


def test_pairs_say_the_same(tmp_path: Path) -> None:
    for family in FAMILIES:
        encoder, folder = with_head(family), tmp_path / family
        written(folder, encoder)
        pairs = [("The cat sleeps.", "A dog waits."), ("A dog.", ""), (SENTENCES[0], SENTENCES[1])]
        found = tiny_tokenizer().encode(pairs, LIMIT)
        reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        theirs = reference.encode(pairs, show_progress_bar=False)
        wanted = embed(encoder, Tokens.of(found, 0), "fp32").numpy()
        np.testing.assert_allclose(theirs, wanted, rtol=0, atol=1e-5)


KINDS = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Dense": "Dense"}
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
IN_FULL: dict[str, Any] = {
    "modules.json": [
        {
            "idx": index,
            "name": str(index),
            "path": place,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (place, kind) in enumerate([*KINDS.items(), ("4_Normalize", "Normalize")])
    ],
    "1_Pooling/config.json": {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": True,
        "pooling_mode_lasttoken": False,
        "include_prompt": True,
    },
    "2_Dense/config.json": {
        "in_features": 64,
        "out_features": 20,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    },
    "3_Dense/config.json": {
        "in_features": 20,
        "out_features": 20,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    },
    "4_Normalize/config.json": {},
    "sentence_bert_config.json": {"max_seq_length": LIMIT, "do_lower_case": False},
    "config_sentence_transformers.json": {
        "prompts": {"default": "caf\u00e9: "},
        "default_prompt_name": "default",
        "similarity_fn_name": "cosine",
    },
    "special_tokens_map.json": SPECIAL,
    "tokenizer_config.json": SPECIAL
    | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": LIMIT,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    },
}


def test_the_files_in_full(tmp_path: Path) -> None:
    encoder = with_head(pooling=("cls", "weightedmean"), dense=("Tanh", "Identity"), normalize=True)
    names = written(tmp_path, encoder, "caf\u00e9: ")
    dense = [f"{place}/{file}" for place in ("2_Dense", "3_Dense") for file in sorted(FILES[1:4:2])]
    assert names == sorted([*FILES, *dense, "4_Normalize/config.json"])
    for name, wanted in IN_FULL.items():
        assert content(tmp_path / name) == wanted, name
    for name in names:
        if name.endswith(".json") and name != "tokenizer.json":
            assert (tmp_path / name).read_bytes().isascii()


def test_the_config_says_what_the_model_is_and_nothing_of_this_machine(tmp_path: Path) -> None:
    encoder = with_head()
    encoder.model.config._name_or_path = "/somewhere/private/teacher"
    encoder.model.config.tokenizer_class = "BertTokenizer"
    written(tmp_path, encoder)
    config = content(tmp_path / "config.json")
    assert list(config) == sorted(config)
    assert config["architectures"] == ["BertModel"]
    assert config["dtype"] == "float32"
    assert (config["model_type"], config["num_hidden_layers"]) == ("bert", 2)
    left_out = {"_name_or_path", "transformers_version", "tokenizer_class", "_attn_implementation"}
    assert not left_out & config.keys()
    for path in tmp_path.rglob("*.json"):
        assert "private" not in path.read_text()


def test_without_a_prompt_none_is_put_before_texts(tmp_path: Path) -> None:
    written(tmp_path, with_head())
    assert content(tmp_path / "config_sentence_transformers.json") == {
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }


def test_an_order_that_flags_cannot_say_is_written_as_a_list(tmp_path: Path) -> None:
    written(tmp_path, with_head(pooling=("mean_sqrt_len", "cls")))
    config = content(tmp_path / "1_Pooling" / "config.json")
    assert config["pooling_mode"] == ["mean_sqrt_len_tokens", "cls"]
    assert not set(FLAGS.values()) & config.keys()


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_bytes_are_the_same_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from kdpipe.encoder import Encoder; from kdpipe.folder import write_model\n"
        "from kdpipe.modules import HeadSpec; from tests.tiny import tiny_encoder, tiny_tokenizer\n"
        "encoder = Encoder(tiny_encoder().model, HeadSpec(('cls', 'max'), True, True), [])\n"
        "folder, tokenizer = Path(sys.argv[1]), tiny_tokenizer()\n"
        f"write_model(folder, encoder, tokenizer, max_seq_length={LIMIT}, prompt='a: ')\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", code, str(tmp_path / "there")]
    root = Path(__file__).parent.parent
    subprocess.run(command, check=True, env=environment, cwd=root, capture_output=True)
    encoder = with_head(pooling=("cls", "max"), normalize=True)
    written(tmp_path / "here", encoder, "a: ")
    once = digests(tmp_path / "here")
    assert len(once) == 10
    assert digests(tmp_path / "there") == once
    written(tmp_path / "here", encoder, "a: ")
    assert digests(tmp_path / "here") == once


def test_weights_have_one_metadata_key(tmp_path: Path) -> None:
    written(tmp_path, with_head(dense=("Tanh",)))
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        with safe_open(tmp_path / name, "pt") as file:
            assert file.metadata() == {"format": "pt"}
    found = load_file(tmp_path / "2_Dense" / "model.safetensors")
    assert {key: list(value.shape) for key, value in found.items()} == {
        "linear.bias": [20],
        "linear.weight": [20, 32],
    }


def test_file_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        names = written(tmp_path / "model", with_head(dense=("Tanh",), normalize=True))
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / "model" / name).stat().st_mode) for name in names}
    assert modes == {0o640}


def test_layers_that_share_weights_and_transposed_weights(tmp_path: Path) -> None:
    encoder = with_head()
    layers = encoder.model.get_submodule("encoder.layer")
    assert isinstance(layers, nn.ModuleList)
    layers[1] = layers[0]
    query = layers.get_submodule("0.attention.self.query")
    assert isinstance(query, nn.Linear)
    query.weight = nn.Parameter(query.weight.detach().t())
    assert not query.weight.is_contiguous()
    wanted = vectors(encoder, tiny_tokenizer(), "")
    written(tmp_path, encoder)
    loaded = load_encoder(tmp_path, head_of(tmp_path))
    np.testing.assert_array_equal(vectors(loaded, tiny_tokenizer(), ""), wanted)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert names == set(encoder.model.state_dict())


@pytest.mark.parametrize(
    ("types", "every"), [("fsfs", 2), ("fss", 3), ("ff", 1), ("fs", 2), ("ffs", 0), ("sf", 0)]
)
def test_layers_of_modernbert_as_older_versions_read_them(
    tmp_path: Path, types: str, every: int
) -> None:
    kinds = {"f": "full_attention", "s": "sliding_attention"}
    encoder = tiny_encoder(layers=len(types), family="modernbert")
    encoder.model.config.layer_types = [kinds[kind] for kind in types]
    encoder.model.config.rope_parameters["full_attention"]["rope_theta"] = 5000.0
    written(tmp_path, encoder)
    config = content(tmp_path / "config.json")
    assert config["layer_types"] == [kinds[kind] for kind in types]
    assert config["global_attn_every_n_layers"] == every
    assert (config["global_rope_theta"], config["local_rope_theta"]) == (5000.0, 10000.0)
    loaded = load_encoder(tmp_path, head_of(tmp_path)).model.config
    assert loaded.layer_types == config["layer_types"]
    assert loaded.rope_parameters == encoder.model.config.rope_parameters


def test_a_folder_is_replaced(tmp_path: Path) -> None:
    written(tmp_path, with_head(pooling=("cls",), dense=("Tanh",), normalize=True), "a: ")
    second = with_head("distilbert")
    assert written(tmp_path, second) == FILES
    loaded = load_encoder(tmp_path, head_of(tmp_path))
    assert default_prompt(tmp_path) == ""
    found = vectors(loaded, load_tokenizer(tmp_path), "")
    np.testing.assert_array_equal(found, vectors(second, tiny_tokenizer(), ""))
