"""Objectives within a whole student: learning rates, resuming, several teachers, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kdpipe import checkpoint, fill_blocks, job, optimizer, train, validate
from kdpipe.activations import Dims
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.parts import LOGITS
from kdpipe.pipeline import StudentSpec
from kdpipe.terms import Terms
from tests.pieces import make_cache, make_corpus, new_project, sentences
from tests.seen import CLASSES, SEVERAL, SINGLE, E
from tests.tiny import tiny_headed_folder


@pytest.fixture
def _small_blocks(monkeypatch):
    monkeypatch.setattr(fill_blocks, "SMALLEST", 20)
    monkeypatch.setattr(fill_blocks, "SPREAD", 100)


def new_job(objectives: list[dict[str, Any]], **more: Any) -> job.Job:
    """A student of two of the teacher's four layers, half as wide; the corpus has no labels."""
    settings = {"tokens_per_batch": 256, "bf16": False, "max_steps": 6, "learning_rate": 1e-3}
    spec = {
        "caches": ["said"],
        "model": {"kind": "teacher_layers", "layers": [1, 4], "hidden_size": 16},
        "embedding_size": 32,
        "objectives": objectives,
        "train": settings,
    }
    root = Path.cwd()
    place = new_project(root, sentences(60), students={"s": spec | more})
    if not place.corpus_folder("text").exists():
        make_cache(place, make_corpus(place))
    corpus, caches = place.inputs("s")
    return job.prepare(place, "s", corpus, caches, "cpu")


FAST = [
    {"kind": "embedding"},
    {"kind": "hidden", "layers": {1: 2}, "learning_rate": 0.01},
    {"kind": "hidden", "layers": {0: 0}, "projection": "tanh"},
]


@pytest.mark.usefixtures("project", "_small_blocks")
def test_projections_have_the_learning_rate_that_they_are_given():
    work = new_job(FAST)
    groups = optimizer.groups(work.spec.train, work.run.student, work.run.terms)
    names = {id(p): name for name, p in work.run.modules.named_parameters()}
    rates = {
        names[id(parameter)]: (round(group["share"] * 1e-3, 9), group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    prefix = "terms.projections"
    assert {name: rate for name, rate in rates.items() if name.startswith("terms")} == {
        f"{prefix}.1-hidden.1.weight": (0.01, 0.01),
        f"{prefix}.1-hidden.1.bias": (0.01, 0.0),
        f"{prefix}.2-hidden.0.0.weight": (1e-3, 0.01),
        f"{prefix}.2-hidden.0.0.bias": (1e-3, 0.0),
    }
    trained = {name for name, p in work.run.modules.named_parameters() if p.requires_grad}
    assert rates.keys() == trained
    assert {rate for name, (rate, _) in rates.items() if not name.startswith("terms")} == {1e-3}
    step = next(iter(train.fit(work.run)))
    found = {round(g["lr"] / step.learning_rate, 6) for g in work.run.optimizer.param_groups}
    assert found == {1.0, 10.0}


@pytest.mark.usefixtures("project", "_small_blocks")
def test_projections_with_a_rate_of_their_own_resume_to_the_bit():
    straight = new_job(FAST)
    first = {k: v.clone() for k, v in straight.run.modules.state_dict().items()}
    runs = Path.cwd() / "runs"
    job.carry_out(straight, runs / "straight")
    stopped = new_job(FAST)
    for step in train.fit(stopped.run):
        if step.number == 3:
            checkpoint.save(runs / "stopped", stopped.run, vars(stopped.log))
            break
    resumed = new_job(FAST)
    job.carry_out(resumed, runs / "stopped")
    one, other = (work.run.modules.state_dict() for work in (straight, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    moved = {name for name in one if not torch.equal(one[name], first[name])}
    assert {name for name in one if "projections" in name} <= moved


@pytest.mark.usefixtures("project", "_small_blocks")
@pytest.mark.parametrize(
    ("objective", "head", "kind", "message"),
    [
        ({"kind": "labels"}, {"kind": "sequence", "classes": ["a", "b"]}, UsageError,
         "objective 'labels' needs labels, the corpus has none: set label_column of its sources"),
        ({"kind": "labels"}, {"kind": "sequence"}, UsageError,
         "the head of the student needs classes, the corpus has 0 different labels: set"
         " label_column of its sources, or 'classes' of the head"),
        ({"kind": "logits"}, {"kind": "sequence", "classes": ["a", "b"]}, UsageError,
         "objective 'logits': the teacher has no logits: use a teacher that was trained for the"
         " task"),
        ({"kind": "logits"}, None, UsageError,
         "objective 'logits': the student has no logits: give the student a head"),
        ({"kind": "relation", "layers": {1: 1}}, None, ArtifactError,
         "cache 'said' lacks key of layer 1, query of layer 1, value of layer 1, which the"
         " objectives need: add them to its targets or files and run 'kdpipe cache-teacher'"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_before_the_first_step(objective, head, kind, message):
    with pytest.raises(kind) as caught:
        new_job([objective], head=head, embedding_size=None)
    assert str(caught.value) == message


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("problem", [SINGLE, SEVERAL])
def test_accumulated_batches_make_the_same_step_as_one_large_one(project, problem):
    """Rows of a head about rows count the same, however long they are; so do labelled ones."""
    several = problem == SEVERAL
    rows: list[dict[str, object]] = [
        {"text": text, "label": [CLASSES[row % 4]] if several else CLASSES[row % 4]}
        for row, text in enumerate(sentences(80))
    ]
    # Whole batches are without a label, and some have one among many.
    for row in rows[7:50]:
        row["label"] = None
    (project / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_headed_folder(project / "one", "sequence", CLASSES, problem)
    source = {"kind": "files", "files": ["data.jsonl"], "label_column": "label"}
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ends = []
    for tokens, accumulation in ((100_000, 1), (64, 1_000)):
        spec = {
            "caches": ["one"],
            "model": {"kind": "teacher_layers", "layers": [1], "config": plain},
            "head": {"kind": "sequence", "problem_type": problem},
            "objectives": [{"kind": "logits", "temperature": 2.0}, {"kind": "labels"}],
            "train": {
                "tokens_per_batch": tokens,
                "gradient_accumulation_steps": accumulation,
                "max_steps": 1,
                "bf16": False,
            },
        }
        cache = {"corpus": "text", "teacher": "one", "dtype": "fp32"}
        place = new_project(
            project,
            ["not read"],
            corpora={"text": {"sources": [source], "tokenizer": "one", "max_seq_length": 32}},
            teachers={"one": {"model": "one"}},
            caches={"one": cache | {"targets": [{"kind": "logits"}]}},
            students={"s": spec},
        )
        if not place.corpus_folder("text").exists():
            make_cache(place, make_corpus(place), "one")
        work = job.prepare(place, "s", *place.inputs("s"), "cpu")
        step = next(iter(train.fit(work.run)))
        ends.append([step.loss, step.grad_norm, *step.losses.values()])
        ends[-1] += [validate.measure(work.run)["eval_loss"]]
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)
    assert min(ends[0]) > 1e-3


@pytest.mark.usefixtures("_small_blocks")
def test_accumulated_words_make_the_same_step_as_one_large_batch(project):
    """Words count the same, whatever they are made of and however many have a tag."""
    rows = []
    for row, text in enumerate(sentences(60)):
        words = text.replace(".", " unspoken.").split()
        tags = [CLASSES[(row + place) % 4] for place in range(len(words))]
        rows.append({"text": words, "label": tags if row % 3 else None})
    (project / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_headed_folder(project / "one", "token", CLASSES)
    source = {"kind": "files", "files": ["data.jsonl"], "label_column": "label"}
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ends = []
    for tokens, accumulation in ((100_000, 1), (64, 1_000)):
        train_spec = {"tokens_per_batch": tokens, "gradient_accumulation_steps": accumulation}
        spec = {
            "caches": ["one"],
            "model": {"kind": "teacher_layers", "layers": [1], "config": plain},
            "head": {"kind": "token"},
            "objectives": [{"kind": "logits"}, {"kind": "labels"}],
            "train": train_spec | {"max_steps": 1, "bf16": False},
        }
        targets = [{"kind": "logits", "per": "token"}]
        cache = {"corpus": "text", "teacher": "one", "dtype": "fp32", "targets": targets}
        place = new_project(
            project,
            ["not read"],
            corpora={"text": {"sources": [source], "tokenizer": "one", "max_seq_length": 32}},
            teachers={"one": {"model": "one"}},
            caches={"one": cache},
            students={"s": spec},
        )
        if not place.corpus_folder("text").exists():
            make_cache(place, make_corpus(place), "one")
        work = job.prepare(place, "s", *place.inputs("s"), "cpu")
        step = next(iter(train.fit(work.run)))
        ends.append([step.loss, step.grad_norm, *step.losses.values()])
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)
    assert min(ends[0]) > 1e-3


def test_several_teachers_have_to_fit_one_by_one():
    spec = StudentSpec.model_validate(
        {
            "caches": ["x", "y"],
            "model": {"kind": "shape"},
            "objectives": [{"kind": "logits", "average": {"x": 1.0, "y": 3.0}}],
        }
    )
    fits, other = Dims(5, E, 4, problem=SINGLE, classes=("a", "b")), Dims(5, E, 4)
    terms = Terms(spec, fits, {"x": fits, "y": fits})
    assert terms.terms[0].caches == {"x": 0.25, "y": 0.75}
    assert terms.needs_of_teachers() == {"x": {LOGITS}, "y": {LOGITS}}
    for teachers in ({"x": fits, "y": other}, {"x": other, "y": fits}):
        with pytest.raises(UsageError, match="the teacher has no logits"):
            Terms(spec, fits, teachers)
