"""A project of two students that share a body: one tells opinions apart, one finds things."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kdpipe import job
from kdpipe.job import Jobs
from kdpipe.project import Project
from tests.small import run, write
from tests.tiny import tiny_headed_folder

SETTINGS = {"max_steps": 12, "tokens_per_batch": 128, "bf16": False, "eval_steps": 5}
SHARED = {"kind": "shared", "body": "both"}
STUDENTS: dict[str, Any] = {
    "opinion": {
        "caches": ["of-judge"],
        "model": SHARED,
        "head": {"kind": "sequence"},
        "objectives": [{"kind": "logits"}, {"kind": "labels", "weight": 0.5}],
        "evaluate": [{"kind": "classification", "file": "reviews.tsv"}],
    },
    "things": {
        "caches": ["of-tagger"],
        "model": SHARED,
        "head": {"kind": "token"},
        "objectives": [
            {"kind": "logits"},
            {"kind": "hidden", "layers": {1: 2}, "projection": "linear"},
        ],
        "evaluate": [{"kind": "tagging", "file": "tags.conll"}],
    },
}
BODY: dict[str, Any] = {"model": {"kind": "teacher_layers", "layers": [1, 2]}, "train": SETTINGS}


def cache(corpus: str, teacher: str, *targets: dict[str, Any]) -> dict[str, Any]:
    return {"corpus": corpus, "teacher": teacher, "dtype": "fp32", "targets": [*targets]}


CACHES = {
    "of-judge": cache("reviews", "judge", {"kind": "logits"}),
    "of-tagger": cache(
        "tags", "tagger", {"kind": "logits", "per": "token"}, {"kind": "hidden", "layers": [2]}
    ),
    "of-tiny": cache("text", "tiny", {"kind": "embedding"}),
}


def make(root: Path) -> Path:
    """A project in `root` with corpora and caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        tiny_headed_folder(root / "judge", "sequence", ("bad", "good"), layers=3, seed=1)
        tiny_headed_folder(root / "tagger", "token", ("B-THING", "O"), seed=2)
        declare(root)
        for name in ("reviews", "tags", "text"):
            run("tokenize", "p.yaml", name)
        for name in CACHES:
            run("cache-teacher", "p.yaml", name)
    return root


def copy_of(made: Path, path: Path, patch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    shutil.copytree(made, path)
    patch.chdir(path)
    return path


def declare(
    root: Path, students: dict[str, Any] = STUDENTS, body: dict[str, Any] = BODY, **more: Any
) -> Project:
    """The pipeline file with these students and their body."""
    teachers = {name: {"model": name} for name in ("judge", "tagger")}
    return write(
        root, {}, students=students, bodies={"both": body}, teachers=teachers, caches=CACHES, **more
    )


def jobs_of(project: Project) -> Jobs:
    inputs = {name: project.inputs(name) for name in project.pipeline.trained_in("both")}
    return job.prepare_together(project, "both", inputs, "cpu")


def weights(jobs: Jobs) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in jobs.group.modules.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
