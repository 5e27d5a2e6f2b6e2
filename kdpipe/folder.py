"""The student's folder: files that old and new versions of the libraries around it read alike.

Written by hand, because what `save` of today writes no older version reads. Every byte follows from
the model, the tokenizer and two settings: no path, no time, no version, no map in random order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn
from transformers import PreTrainedModel

from kdpipe import io
from kdpipe.encoder import ACTIVATIONS, Dense, Encoder
from kdpipe.modules import FLAGS, POOLINGS
from kdpipe.nets.crf import FILE as CRF_FILE
from kdpipe.tokenizer import Tokenizer

_NOT_WRITTEN = ("_name_or_path", "transformers_version", "tokenizer_class")


def write_model(
    folder: Path, encoder: Encoder, tokenizer: Tokenizer, *, max_seq_length: int, prompt: str
) -> list[str]:
    """Write a model for transformers and sentence-transformers; returns the sorted file names.

    One with a head that gives logits is for transformers alone. The vectors there are those of
    `encoder`. Two heads are beyond what older versions of sentence-transformers know: they refuse
    poolings in another order than that of POOLINGS; and with a prompt that is not pooled, they take
    for `cls` the first token of the row, not the first one after the prompt.

    Args:
        folder: Where to; what lies there under the same names is replaced.
        encoder: Its weights are written in the dtype that they have.
        tokenizer: Written without truncation and padding, which readers do as they need it.
        max_seq_length: The longest row in tokens, special tokens included.
        prompt: Put before every text by sentence-transformers; empty for none.
    """
    model = encoder.model
    files = {
        "config.json": _json(_config(model)),
        "model.safetensors": _weights(model),
        "tokenizer.json": tokenizer.backend.to_str(pretty=True).encode("utf-8"),
        "tokenizer_config.json": _json(_tokenizer(encoder, tokenizer, max_seq_length)),
        "special_tokens_map.json": _json(tokenizer.special),
    }
    if encoder.crf is not None:
        files[CRF_FILE] = _weights(encoder.crf)
    if encoder.answers is None:
        files |= _modules_of(encoder, max_seq_length, prompt)
    elif prompt:
        files["config_sentence_transformers.json"] = _json(_settings(prompt))
    for name, data in files.items():
        io.make_folder((folder / name).parent)
        io.write_file(folder / name, data)
    return sorted(files)


def _modules_of(encoder: Encoder, max_seq_length: int, prompt: str) -> dict[str, bytes]:
    """The files of sentence-transformers: how tokens become one vector."""
    files = {
        "sentence_bert_config.json": _json(
            {"max_seq_length": max_seq_length, "do_lower_case": False}
        ),
        "config_sentence_transformers.json": _json(_settings(prompt)),
        "1_Pooling/config.json": _json(_pooling(encoder)),
    }
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    for layer in encoder.dense:
        assert isinstance(layer, Dense)
        place = f"{len(kinds)}_Dense"
        kinds[place] = "Dense"
        files[f"{place}/config.json"] = _json(_dense(layer))
        files[f"{place}/model.safetensors"] = _weights(layer)
    if encoder.head.normalize:
        place = f"{len(kinds)}_Normalize"
        kinds[place] = "Normalize"
        # It says nothing, but git and the hub lose empty folders, and old readers then ask the hub.
        files[f"{place}/config.json"] = _json({})
    return files | {"modules.json": _json(_modules(kinds))}


def _json(value: Any) -> bytes:
    """Escaped to ASCII: some readers open these files in the encoding of their machine."""
    return json.dumps(value, indent=2).encode("ascii") + b"\n"


def _config(model: PreTrainedModel) -> dict[str, Any]:
    config: dict[str, Any] = model.config.to_diff_dict()
    for key in _NOT_WRITTEN:
        config.pop(key, None)
    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(model.dtype).removeprefix("torch.")
    if config["model_type"] == "modernbert":
        config |= _modernbert(config)
    return dict(sorted(config.items()))


def _modernbert(config: dict[str, Any]) -> dict[str, Any]:
    """The keys by which transformers before 5 knows attention and positions of each layer."""
    types, rope = config["layer_types"], config["rope_parameters"]
    full = [kind == "full_attention" for kind in types]
    every = (n for n in range(1, len(full) + 1) if full == [i % n == 0 for i in range(len(full))])
    return {
        # Where no number says it, 0 makes those versions stop; without one they would assume 3.
        "global_attn_every_n_layers": next(every, 0),
        "global_rope_theta": rope["full_attention"]["rope_theta"],
        "local_rope_theta": rope["sliding_attention"]["rope_theta"],
    }


def _weights(module: nn.Module) -> bytes:
    """The safetensors form: one metadata key, as the order of several is random."""
    tensors, seen, weights = {}, set(), module.state_dict()
    tied = getattr(module, "all_tied_weights_keys", {})
    for name, tensor in weights.items():
        if name in tied and tensor.data_ptr() == weights[tied[name]].data_ptr():
            # Whoever loads it ties them again, as the embeddings to a head that guesses tokens.
            continue
        kept = tensor.detach().cpu().contiguous()
        memory = kept.untyped_storage().data_ptr()
        # Each other name gets bytes of its own.
        tensors[name] = kept.clone() if memory in seen else kept
        seen.add(memory)
    return save(tensors, metadata={"format": "pt"})


def _tokenizer(encoder: Encoder, tokenizer: Tokenizer, max_seq_length: int) -> dict[str, Any]:
    types = ["token_type_ids"] if encoder.typed else []
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_seq_length,
        # Of the model, not of the tokenizer that it was given: some models refuse type ids.
        "model_input_names": ["input_ids", *types, "attention_mask"],
        **tokenizer.special,
    }


def _settings(prompt: str) -> dict[str, Any]:
    return {
        "prompts": {"default": prompt} if prompt else {},
        "default_prompt_name": "default" if prompt else None,
        "similarity_fn_name": "cosine",
    }


def _pooling(encoder: Encoder) -> dict[str, Any]:
    chosen = encoder.head.pooling
    modes: dict[str, Any] = {flag: name in chosen for name, flag in FLAGS.items()}
    if list(chosen) != [name for name in POOLINGS if name in chosen]:
        # Flags have no order; newer versions read a list.
        names = {"mean_sqrt_len": "mean_sqrt_len_tokens"}
        modes = {"pooling_mode": [names.get(name, name) for name in chosen]}
    return {
        "word_embedding_dimension": encoder.dims.hidden,
        **modes,
        "include_prompt": encoder.head.include_prompt,
    }


def _dense(layer: Dense) -> dict[str, Any]:
    activation = ACTIVATIONS[layer.activation]
    return {
        "in_features": layer.linear.in_features,
        "out_features": layer.linear.out_features,
        "bias": layer.linear.bias is not None,
        "activation_function": f"{activation.__module__}.{activation.__qualname__}",
    }


def _modules(kinds: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "idx": index,
            "name": str(index),
            "path": place,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (place, kind) in enumerate(kinds.items())
    ]
