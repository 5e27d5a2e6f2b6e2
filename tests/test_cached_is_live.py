"""The heart: an objective gives the same loss and gradients from a cache as from a teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kdpipe import fill_blocks
from kdpipe.activations import Tokens
from kdpipe.encoder import observe
from kdpipe.loader import Batch
from kdpipe.parts import EMBEDDING, Part
from tests.live import TOLERANCE, assert_same, terms_of
from tests.pieces import make_cache, make_corpus, new_project, sentences
from tests.tiny import tiny_encoder, tiny_teacher_folder

OBJECTIVES: dict[str, dict[str, Any]] = {
    "embedding-mse": {"kind": "embedding", "loss": "mse"},
    "embedding-cosine": {"kind": "embedding", "loss": "cosine"},
    "embedding-similarity": {"kind": "embedding", "loss": "similarity"},
    "hidden-mse": {"kind": "hidden", "layers": {0: 0, 1: 2}},
    "hidden-cosine": {"kind": "hidden", "layers": {1: 2}, "loss": "cosine"},
    "hidden-pkd": {"kind": "hidden", "layers": {1: 2}, "loss": "pkd", "projection": "tanh"},
    "hidden-sequence": {"kind": "hidden", "layers": {1: 2}, "reduction": "sequence"},
    "hidden-plain": {"kind": "hidden", "layers": {1: 2}, "projection": "none"},
    "hidden-shared": {"kind": "hidden", "layers": "uniform", "share_projection": True},
    "fsp": {
        "kind": "structure",
        "loss": "fsp",
        "student_layers": [0, 2],
        "teacher_layers": [0, 4],
        "projection": "linear",
    },
    "nst": {
        "kind": "structure",
        "loss": "nst",
        "student_layers": [2, 2],
        "teacher_layers": [4, 4],
    },
    "emd": {"kind": "emd"},
    "modules-mse": {
        "kind": "modules",
        "names": {
            "encoder.layer.0.intermediate": "encoder.layer.2.intermediate",
            "embeddings": "encoder.layer.3.attention",
        },
    },
    "modules-cosine": {
        "kind": "modules",
        "names": {"encoder.layer.1.output.dense": "encoder.layer.2.intermediate"},
        "loss": "cosine",
        "reduction": "sequence",
        "projection": "relu",
    },
    "relation": {"kind": "relation"},
    "relation-sequence": {
        "kind": "relation",
        "heads": 8,
        "pairs": {"value-value": 2.0, "key-query": 0.5},
        "reduction": "sequence",
        "layers": {1: 3},
    },
    "attention-mse": {"kind": "attention"},
    "attention-mse-sum": {"kind": "attention", "loss": "mse_sum"},
    "attention-ce": {"kind": "attention", "loss": "ce", "layers": "last"},
    "attention-ce-mean": {"kind": "attention", "loss": "ce_mean", "layers": {1: 2}},
}
"""Every objective without a head, in every form of it."""
LAYERS = 4
NEEDS = frozenset(
    {EMBEDDING}
    | {Part("hidden", layer) for layer in range(LAYERS + 1)}
    | {Part(n, layer) for n in ("query", "key", "value") for layer in range(1, LAYERS + 1)}
)
MODULES = {"bert": ["encoder.layer.2.intermediate", "encoder.layer.3.attention"]}
"""Family: modules that its teacher is asked for, of which one gives a tuple."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(fill_blocks, "SMALLEST", 20)
    monkeypatch.setattr(fill_blocks, "SPREAD", 100)


def both(project, family, storage):
    """(live, cached) Activations of ragged rows from several blocks, in random order."""
    tiny_teacher_folder(project / "teacher", layers=LAYERS, family=family)
    targets = [
        {"kind": "embedding"},
        {"kind": "hidden", "layers": list(range(LAYERS + 1))},
        {"kind": "qkv", "layers": list(range(1, LAYERS + 1))},
    ]
    needs, names = NEEDS, MODULES.get(family, [])
    if names:
        targets.append({"kind": "modules", "names": names})
        needs = NEEDS | {Part("module", module=name) for name in names}
    cache_spec = {
        "corpus": "text",
        "teacher": "tiny",
        "dtype": "fp32",
        "targets": [{**target, "storage": storage} for target in targets],
    }
    place = new_project(project, sentences(60), caches={"said": cache_spec})
    corpus = make_corpus(place)
    cache, _ = make_cache(place, corpus)
    rows = np.random.default_rng(1).permutation(60)[:17]
    found = corpus.gather(rows)
    tokens = Tokens(torch.from_numpy(found.ids), torch.from_numpy(found.lengths))
    live = observe(place.teacher("tiny").load(), tokens, needs, "fp32")
    return tokens, live, cache.read(rows, needs)


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "distilbert", "electra", "mobilebert", "mpnet", "modernbert"]
)
def test_what_is_read_is_what_was_said(project, family):
    _, live, cached = both(project, family, "fp32")
    assert live.values.keys() == cached.values.keys() >= NEEDS
    for part in live.values:
        assert torch.allclose(live[part], cached[part], atol=1e-5), part
    assert torch.equal(live.lengths, cached.lengths)


@pytest.mark.parametrize("storage", TOLERANCE)
def test_loss_and_gradients_of_every_objective(project, storage):
    check("bert", OBJECTIVES, storage, *both(project, "bert", storage))


@pytest.mark.parametrize("family", ["roberta", "distilbert", "electra", "mpnet", "modernbert"])
def test_loss_and_gradients_of_queries_keys_and_values_in_every_family(project, family):
    kinds = {"relation"} if family in {"mpnet", "modernbert"} else {"relation", "attention"}
    fit = {name: one for name, one in OBJECTIVES.items() if one["kind"] in kinds}
    check(family, fit, "fp32", *both(project, family, "fp32"))


def check(family, objectives, storage, tokens, live, cached):
    teacher = tiny_encoder(layers=LAYERS, family=family).dims
    for name, objective in objectives.items():
        student = tiny_encoder(layers=2, family=family, seed=5)
        terms = terms_of(objective, student.dims, {"said": teacher})
        one, other = (Batch(tokens, {"said": said}) for said in (live, cached))
        assert_same(name, student, terms, one, other, storage)
