"""Rows with labels and rows without, a batch of each in every step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdpipe import job, train
from kdpipe.errors import UsageError
from kdpipe.job import Job
from tests.pieces import make_cache, make_corpus, new_project, sentences
from tests.runs import same, state, stopped_at
from tests.tiny import tiny_headed_folder

pytestmark = pytest.mark.usefixtures("small_blocks")

CLASSES = ("a", "b", "c")
PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def new_job(
    root: Path, labels: int = 12, kinds: Sequence[str] = ("logits", "labels"), **settings: Any
) -> Job:
    """A classifier of 90 texts, of which the first ones have labels, with a teacher of them all."""
    rows = [
        {"text": text, "label": CLASSES[number % 3] if number < labels else None}
        for number, text in enumerate(sentences(90))
    ]
    (root / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not (root / "one").is_dir():
        tiny_headed_folder(root / "one", "sequence", CLASSES)
    source = {"kind": "files", "files": ["data.jsonl"], "label_column": "label"}
    told = {"tokens_per_batch": 96, "max_steps": 14, "bf16": False, "eval_steps": 5}
    spec = {
        "caches": ["one"],
        "model": {"kind": "teacher_layers", "layers": [1], "config": PLAIN},
        "head": {"kind": "sequence", "classes": CLASSES},
        "objectives": [{"kind": kind} for kind in kinds],
        "train": told | {"parallel_batches": True} | settings,
    }
    corpus = {"sources": [source], "tokenizer": "one", "max_seq_length": 32}
    cache = {"corpus": "text", "teacher": "one", "dtype": "fp32", "targets": [{"kind": "logits"}]}
    place = new_project(
        root,
        ["not read"],
        corpora={"text": corpus | {"validation": 0.1}},
        teachers={"one": {"model": "one"}},
        caches={"one": cache},
        students={"s": spec},
    )
    if not place.corpus_folder("text").exists():
        make_cache(place, make_corpus(place), "one")
    return job.prepare(place, "s", *place.inputs("s"), "cpu")


@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_step_has_as_many_batches_of_each(project: Path, accumulation: int) -> None:
    work = new_job(project, gradient_accumulation_steps=accumulation)
    corpus, steps = work.run.corpus, train.steps_per_epoch(work.run)
    labelled = np.array([label is not None for label in corpus.labels(np.arange(90))])
    plan, seen = train.plan(work.run, 0), list[int]()
    for number in range(1, steps + 1):
        batches = next(plan)
        assert len(batches) == 2 * accumulation or number == steps
        for place, batch in enumerate(batches):
            assert labelled[batch].tolist() == [place % 2 == 0] * len(batch)
            seen += batch.tolist()
    assert (
        sorted(row for row in seen if not labelled[row])
        == np.flatnonzero(~labelled & ~corpus.held_out).tolist()
    )
    assert {row for row in seen if labelled[row]} == {
        *np.flatnonzero(labelled & ~corpus.held_out).tolist()
    }
    assert np.bincount(seen).max() > 3
    later = train.plan(work.run, steps + 1)
    next(plan)
    assert [b.tolist() for b in next(plan)] == [b.tolist() for b in next(later)]


def test_a_step_is_that_of_one_batch_of_both(project: Path) -> None:
    """Labels count over the rows that have one, what the teacher says over all."""
    ends = []
    for settings in ({"parallel_batches": True}, {"parallel_batches": False}):
        work = new_job(project, tokens_per_batch=100_000, **settings)
        step = next(iter(train.fit(work.run)))
        ends.append([step.loss, step.grad_norm, *step.losses.values(), step.tokens])
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)
    assert min(ends[0]) > 1e-3


def test_stopped_and_resumed_is_never_stopped(project: Path) -> None:
    straight, stopped, resumed = (new_job(project) for _ in range(3))
    assert job.carry_out(straight, project / "straight") is None
    stopped_at(stopped, 9, project / "runs")
    assert job.carry_out(resumed, project / "runs") is None
    assert same(state(resumed), state(straight))
    assert resumed.run.progress == straight.run.progress


@pytest.mark.parametrize(("labels", "found"), [(90, "82 and 0"), (0, "0 and 82")])
def test_a_corpus_of_one_kind_is_refused(project: Path, labels: int, found: str) -> None:
    with pytest.raises(UsageError) as caught:
        new_job(project, labels, ("logits", "labels") if labels else ("logits",))
    assert str(caught.value) == (
        "parallel_batches needs rows with a label and rows without one to train on, the corpus has"
        f" {found}: add a source of the other kind, or take out parallel_batches"
    )
