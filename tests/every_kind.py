"""Every kind of artifact in one project, made by the stages themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdpipe.project import Project
from kdpipe.stages.cache_teacher import cache_teacher
from kdpipe.stages.tokenize_corpus import tokenize
from kdpipe.stages.train_student import train as train_student
from tests.pieces import new_project, sentences, write_yaml

STORAGES = ("fp32", "fp16", "bf16", "int8")


def sections() -> dict[str, Any]:
    """One corpus with repeated rows, a cache for each storage type, one student."""
    text = {
        "sources": [{"kind": "files", "files": ["text.txt"]}],
        "tokenizer": "tiny",
        "max_seq_length": 32,
        "validation": 0.1,
        "seed": 5,
        "deduplicate": False,
    }
    pairs = {
        "sources": [
            {
                "kind": "files",
                "files": ["pairs.tsv"],
                "text_column": "first",
                "text_pair_column": "second",
                "label_column": "label",
            }
        ],
        "tokenizer": "tiny",
    }
    words = {"sources": [{"kind": "conll", "files": ["words.conll"]}], "max_seq_length": 12}
    caches = {
        storage: {
            "corpus": "text",
            "teacher": "tiny",
            "dtype": "fp32",
            "targets": [
                {"kind": "hidden", "layers": [2, 0], "storage": storage},
                {"kind": "embedding", "storage": storage},
            ],
        }
        for storage in STORAGES
    }
    student = {
        "caches": ["fp32"],
        "model": {"kind": "teacher_layers", "layers": [1, 4]},
        # The negative weight leads away from the teacher: the best step is not the last one.
        "objectives": [
            {"kind": "embedding", "weight": -1.0},
            {"kind": "hidden", "layers": {1: 2}, "weight": 0.01},
        ],
        "train": {
            "tokens_per_batch": 256,
            "bf16": False,
            "max_steps": 6,
            "logging_steps": 4,
            "eval_steps": 3,
            "save_steps": 2,
            "learning_rate": 1e-2,
            "metric_for_best_model": "eval_cosine",
        },
    }
    corpora = {"text": text, "pairs": pairs, "words": {**words, "tokenizer": "tiny"}}
    return {"corpora": corpora, "caches": caches, "students": {"s": student}}


def tagged_words() -> list[list[tuple[str, str]]]:
    """Sentences of words with tags; the first word of each has no token."""
    rows = [["\u200b", *line.split()] for line in sentences(30)]
    return [[(word, f"T{place % 3}") for place, word in enumerate(row)] for row in rows]


@dataclass(frozen=True)
class Made:
    """A project on disk."""

    root: Path
    project: Project
    lines: list[str]

    def folder(self, *names: str) -> Path:
        return self.root.joinpath("artifacts", *names)


def make(root: Path) -> Made:
    """Every kind of artifact, by the stages themselves."""
    lines = [*sentences(60), "Zwei F\u00fc\u00dfe im Schnee \u2603", *sentences(60)]
    place = new_project(root, lines, **sections())
    pairs = [f"{a}\t{b}\t" for a, b in zip(lines[:40:2], lines[1:40:2], strict=True)]
    labels = [f"{n / 4}" if n > 9 else "" for n in range(20)]
    rows = "".join(f"{pair}{label}\n" for pair, label in zip(pairs, labels, strict=True))
    (root / "pairs.tsv").write_text(f"first\tsecond\tlabel\n{rows}", "utf-8")
    tagged = "\n".join("".join(f"{w} {t}\n" for w, t in row) for row in tagged_words())
    (root / "words.conll").write_text(tagged, "utf-8")
    spec = place.pipeline.identity()
    spec["caches"].pop("said")
    path = write_yaml(root / "pipeline.yaml", json.dumps(spec)).relative_to(root)
    tokenize(path)
    cache_teacher(path, device="cpu")
    train_student(path, device="cpu")
    return Made(root, Project(path, place.pipeline, root), lines)
