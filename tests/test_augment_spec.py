"""What a pipeline file may say about augmentation, and what it is told where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from kdpipe.augment import AugmentationSpec
from kdpipe.config import decode
from kdpipe.errors import UsageError

HEAD = "sources: [{kind: files, files: [text.txt]}]\n"
STEPS = "methods:\n  - kind: perturb\n    steps:\n      - "


def read(tmp_path: Path, text: str) -> AugmentationSpec:
    path = tmp_path / "part.yaml"
    path.write_text(text, "utf-8")
    return decode(AugmentationSpec, YAML(typ="safe", pure=True).load(text), path)


def test_defaults_are_those_of_the_originals(tmp_path):
    text = f"""{HEAD}
methods:
  - {{kind: tinybert, model: bert-base-uncased, vectors: glove.txt}}
  - {{kind: masked_lm, model: bert-base-uncased}}
  - {{kind: word_vectors, vectors: glove.txt}}
  - kind: perturb
    steps:
      - {{kind: masking}}
      - {{kind: deleting}}
      - {{kind: n_gram_sampling}}
      - {{kind: short_disorder}}
      - {{kind: long_disorder}}
"""
    spec = read(tmp_path, text)
    said = spec.identity()
    assert (said["copies"], said["keep_original"], said["seed"]) == (1, True, 0)
    replacing = {"candidates": 15, "probability": 0.4}
    model = {"model": "bert-base-uncased", "revision": None}
    vectors = {"vectors": "glove.txt", "vocabulary": 100_000}
    assert said["methods"] == [
        {"kind": "tinybert", **replacing, **model, **vectors},
        {"kind": "masked_lm", **replacing, **model},
        {"kind": "word_vectors", **replacing, **vectors},
        {
            "kind": "perturb",
            "steps": [
                {"kind": "masking", "probability": 0.1, "mask": "[MASK]"},
                {"kind": "deleting", "probability": 0.1},
                {
                    "kind": "n_gram_sampling",
                    "lengths": [1, 2, 3, 4, 5],
                    "probabilities": [0.2, 0.2, 0.2, 0.2, 0.2],
                },
                {"kind": "short_disorder", "probabilities": [0.9, 0.1, 0.0, 0.0, 0.0]},
                {"kind": "long_disorder", "probability": 0.1, "length": 20.0},
            ],
        },
    ]
    assert spec.models == ["bert-base-uncased", "bert-base-uncased"]
    assert spec.vectors == ["glove.txt", "glove.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{HEAD}{STEPS}{{kind: short_disorder, probabilities: [0.5, 0.5]}}",
            ":5: methods.0.steps.0: key 'probabilities' needs 5 numbers, of abc,"
            " bac, cba, cab, bca: found 2",
        ),
        (
            f"{HEAD}{STEPS}{{kind: n_gram_sampling, lengths: [2, 3]}}",
            ":5: methods.0.steps.0: key 'probabilities' needs 2 numbers, one for"
            " each of 'lengths': found 5",
        ),
        (
            f"{HEAD}{STEPS}{{kind: n_gram_sampling, lengths: [2, 3], probabilities: [0.5, 0.6]}}",
            ":5: methods.0.steps.0: key 'probabilities' adds up to 1.1, not to 1: mend it",
        ),
        (
            f"{HEAD}{STEPS}{{kind: masking, probability: 1.5}}",
            ":5: methods.0.steps.0.probability: Input should be less than or equal to 1, found 1.5",
        ),
        (
            f"{HEAD}methods: [{{kind: masked_lm, vectors: x}}]",
            ":2: methods.0: unknown key 'vectors': allowed: candidates, probability,"
            " model, revision, kind",
        ),
        (
            f"{HEAD}methods: [{{kind: tinybert, vectors: x}}]",
            ":2: methods.0: key 'model' is required",
        ),
        (
            f"{HEAD}methods: [{{kind: masking}}]",
            ":2: methods.0: unknown kind 'masking': allowed: masked_lm,"
            " word_vectors, tinybert, perturb",
        ),
        (HEAD, ":1: key 'methods' is required"),
    ],
)
def test_mistakes_are_said_with_line_key_and_remedy(tmp_path, text, message):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert str(caught.value) == f"{tmp_path / 'part.yaml'}{message}"
