"""A tiny student in training: its section of a pipeline file, its job, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdpipe import checkpoint, job, train
from kdpipe.job import Job
from tests.pieces import make_cache, make_corpus, new_project, sentences

EMBEDDING = {"kind": "embedding", "loss": "cosine"}
HIDDEN = {"kind": "hidden", "layers": {1: 2}}


def student(
    objectives: Sequence[dict[str, Any]] = (EMBEDDING, HIDDEN),
    model: dict[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Two of the teacher's four layers, 12 steps unless said otherwise."""
    model = model or {"kind": "teacher_layers", "layers": [1, 4]}
    settings = {"tokens_per_batch": 256, "bf16": False, "eval_steps": 5, "max_steps": 12} | settings
    return {
        "caches": ["said"],
        "model": model,
        "objectives": list(objectives),
        "train": settings,
    }


def new_job(root: Path, spec: dict[str, Any]) -> Job:
    """A student before its first step, of sentences without labels."""
    place = new_project(root, sentences(80), students={"s": spec})
    if not place.corpus_folder("text").exists():
        make_cache(place, make_corpus(place))
    corpus, caches = place.inputs("s")
    return job.prepare(place, "s", corpus, caches, "cpu")


def stopped_at(work: Job, number: int, runs: Path) -> None:
    """Train up to a step and write a checkpoint there, as a signal would have it."""
    for step in train.fit(work.run):
        every = work.spec.train.logging_steps
        work.log.add(step, full=step.number % every == 0 or step.measured is not None)
        if step.number == number:
            checkpoint.save(runs, work.run, vars(work.log))
            break


def state(work: Job) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: value.clone() for name, value in work.run.modules.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether all are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
