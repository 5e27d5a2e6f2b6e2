"""Loss formulas as pure functions of tensors, each with its source.

Student first, then the teacher, then options by name. Every function gives a scalar of the type
that it was given; half types are summed in float32. Layer maps and temperatures, whose names are
short, stay in their modules: `layer_map.uniform`, `temperature.flsw`.
"""

from __future__ import annotations

from kdpipe.losses import layer_map, temperature
from kdpipe.losses.attention import (
    attention_ce,
    attention_ce_mean,
    attention_mse,
    attention_mse_sum,
    scores_of,
)
from kdpipe.losses.embedding import cosine, mse, similarity_structure
from kdpipe.losses.hidden import fsp, hidden_cosine, hidden_mse, nst, pkd
from kdpipe.losses.labels import binary_cross_entropy, cross_entropy, regression_mse
from kdpipe.losses.layer_map import emd
from kdpipe.losses.logits import (
    Direction,
    binary_soft_cross_entropy,
    dropout_penalty,
    kl_divergence,
    logits_mse,
    soft_cross_entropy,
    span_logits,
)
from kdpipe.losses.reduce import Reduction
from kdpipe.losses.relation import minilm, relation_kl
from kdpipe.losses.temperature import probability_shift
from kdpipe.losses.top_k import top_k_kl

__all__ = [
    "Direction",
    "Reduction",
    "attention_ce",
    "attention_ce_mean",
    "attention_mse",
    "attention_mse_sum",
    "binary_cross_entropy",
    "binary_soft_cross_entropy",
    "cosine",
    "cross_entropy",
    "dropout_penalty",
    "emd",
    "fsp",
    "hidden_cosine",
    "hidden_mse",
    "kl_divergence",
    "layer_map",
    "logits_mse",
    "minilm",
    "mse",
    "nst",
    "pkd",
    "probability_shift",
    "regression_mse",
    "relation_kl",
    "scores_of",
    "similarity_structure",
    "soft_cross_entropy",
    "span_logits",
    "temperature",
    "top_k_kl",
]
