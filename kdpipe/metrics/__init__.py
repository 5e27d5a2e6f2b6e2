"""How good a model is: pure functions of numpy arrays and lists, shares in [0, 1]."""

from __future__ import annotations

from kdpipe.metrics.classification import (
    accuracy,
    agreement,
    binary_f1,
    macro_f1,
    matthews,
    micro_f1,
)
from kdpipe.metrics.squad import answer_f1, exact_match, normalise_answer
from kdpipe.metrics.tagging import (
    Entity,
    Scheme,
    Scores,
    entities,
    entity_scores,
    entity_table,
    tag_scheme,
    token_accuracy,
)
from kdpipe.metrics.vectors import cosine_rows, neighbour_recall, pair_spearman, pearson, spearman

__all__ = [
    "Entity",
    "Scheme",
    "Scores",
    "accuracy",
    "agreement",
    "answer_f1",
    "binary_f1",
    "cosine_rows",
    "entities",
    "entity_scores",
    "entity_table",
    "exact_match",
    "macro_f1",
    "matthews",
    "micro_f1",
    "neighbour_recall",
    "normalise_answer",
    "pair_spearman",
    "pearson",
    "spearman",
    "tag_scheme",
    "token_accuracy",
]
