"""A student of attention alone: from a pipeline file to a folder and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from kdpipe.activations import Tokens
from kdpipe.encoder import ask, observe
from kdpipe.parts import LOGITS, TOKEN_LOGITS, Part
from kdpipe.students import AttentionStudent
from kdpipe.tokenizer import load_tokenizer
from tests.small import SEQUENCE, TOKEN, loaded, reviews, run, tagged, write
from tests.tiny import SENTENCES, tiny_encoder, tiny_tokenizer


def attention(**keys: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "head_size": 8}
    return {"kind": "attention", **sizes, **keys}


def trained(root: Path, student: dict[str, Any], corpus: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a student, and its metrics."""
    write(root, {"s": student})
    run("tokenize", "p.yaml", corpus)
    run("train", "p.yaml")
    run("evaluate", "p.yaml")
    scores = json.loads((root / "reports/s/metrics.json").read_text())
    return root / "artifacts/students/s", scores


def test_a_classifier_learns_labels_and_comes_back(project: Path) -> None:
    task = {"kind": "classification", "file": "reviews.tsv"}
    student = SEQUENCE | {"model": attention(dropout=0.1), "evaluate": [task]}
    folder, scores = trained(project, student, "reviews")
    assert scores["student"]["classification.accuracy"] > 0.95
    assert scores["untrained"]["classification.accuracy"] < 0.8
    tokens = Tokens.of(load_tokenizer(folder).encode([text for text, _ in reviews()], 32), 0)
    said = ask(loaded(folder), tokens, LOGITS, "fp32")
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        theirs = model(tokens.padded(0), tokens.mask().long()).logits
    torch.testing.assert_close(theirs, said, rtol=0, atol=1e-5)


def test_a_tagger_learns_tags_and_comes_back(project: Path) -> None:
    task = {"kind": "tagging", "file": "tags.conll"}
    student = TOKEN | {"model": attention(num_layers=2), "evaluate": [task]}
    folder, scores = trained(project, student, "tags")
    assert scores["student"]["tagging.f1"] > 0.95
    encoder = loaded(folder)
    tokens = Tokens.of(load_tokenizer(folder).encode_words([row for row, _ in tagged()], 32), 0)
    said, mask = ask(encoder, tokens, TOKEN_LOGITS, "fp32"), tokens.mask()
    model = AutoModelForTokenClassification.from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        theirs = model(tokens.padded(0), mask.long()).logits[mask]
    torch.testing.assert_close(theirs, said, rtol=0, atol=1e-5)


def test_it_learns_hidden_states_and_scores_of_its_teacher(project: Path) -> None:
    targets = [
        {"kind": "embedding"},
        {"kind": "hidden", "layers": [0, 1, 2]},
        {"kind": "qkv", "layers": [1, 2]},
    ]
    student = {
        "caches": ["more"],
        "model": attention(num_layers=2, embeddings="teacher"),
        "objectives": [
            {"kind": "embedding"},
            {"kind": "hidden", "layers": "uniform", "share_projection": True},
            {"kind": "attention", "loss": "mse_sum"},
        ],
    }
    cache = {"corpus": "text", "teacher": "tiny", "dtype": "fp32", "targets": targets}
    write(project, {"s": student}, caches={"more": cache})
    for command in ("tokenize", "cache-teacher", "train", "evaluate"):
        run(command, "p.yaml")
    folder = project / "artifacts/students/s"
    scores = json.loads((project / "reports/s/metrics.json").read_text())
    better = [scores[who]["fidelity.cosine"] for who in ("untrained", "student")]
    assert better[0] + 0.2 < better[1]
    encoder, tokens = loaded(folder), Tokens.of(tiny_tokenizer().encode(SENTENCES[:9], 32), 0)
    base = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        said = base(tokens.padded(0), tokens.mask().long(), output_hidden_states=True)
    assert [one.shape[-1] for one in said.hidden_states] == [24] * 3
    parts = frozenset({Part("hidden", 2), Part("query", 2)})
    mine = observe(encoder, tokens, parts, "fp32")
    wanted = said.hidden_states[2][tokens.mask()]
    torch.testing.assert_close(mine[Part("hidden", 2)], wanted, rtol=0, atol=1e-6)
    assert mine[Part("query", 2)].shape == (len(wanted), 16)


def test_its_table_is_the_teachers_where_widths_agree() -> None:
    teacher = tiny_encoder()
    student = AttentionStudent(kind="attention", hidden_size=32, embeddings="teacher")
    table = student.build(teacher, tiny_tokenizer()).get_input_embeddings().weight.detach()
    theirs = teacher.base.get_input_embeddings().weight.detach()
    theirs = theirs - theirs.mean(0)
    assert not table[0].any()
    torch.testing.assert_close(table[1:] * theirs.std(), theirs[1:], rtol=0, atol=1e-5)
