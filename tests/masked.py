"""Small masked language models with random weights, and files of word vectors, to augment with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

from tests.tiny import tiny_tokenizer

VECTORS = {
    "rain": (1.0, 0.0, 0.0),
    "hail": (0.9, 0.1, 0.0),
    "snow": (0.8, 0.6, 0.0),
    "sleet": (1.6, 1.3, 0.0),
    "train": (0.0, 1.0, 0.0),
    "rain-coat": (0.99, 0.0, 0.1),
    "Berlin": (0.0, 0.0, 2.0),
    "nothing": (0.0, 0.0, 0.0),
    "berlin": (0.0, 0.1, 1.0),
}
"""In the order of the file."""
_SPECIAL = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
_OWN: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "modernbert": _SPECIAL | {"local_attention": 16, "global_attn_every_n_layers": 2},
}
"""Keys of some families."""


def masked_folder(path: Path, family: str = "bert", seed: int = 0, layers: int = 2) -> Path:
    """A random masked language model that reads `tiny_tokenizer`; returns `path`."""
    tokenizer = tiny_tokenizer()
    keys = {"vocab_size": tokenizer.vocabulary, "pad_token_id": 0, "initializer_range": 0.2}
    keys |= {"num_hidden_layers": layers, "hidden_size": 32, "num_attention_heads": 4}
    keys |= {"intermediate_size": 64, "max_position_embeddings": 64}
    if family in {"roberta", "xlm-roberta", "camembert"}:
        keys |= {"type_vocab_size": 1}
    keys |= _OWN.get(family, {})
    config = AutoConfig.for_model(family, **keys)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForMaskedLM.from_config(config).save_pretrained(path)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, model_max_length=64, **tokenizer.special
    )
    fast.save_pretrained(path)
    return path


def write_vectors(path: Path) -> Path:
    """VECTORS as GloVe writes them; returns `path`."""
    lines = (f"{word} {' '.join(map(str, np.round(v, 3)))}\n" for word, v in VECTORS.items())
    path.write_text("".join(lines), encoding="utf-8")
    return path
