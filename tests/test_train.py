"""Training: it learns, it repeats, it resumes to the bit, and everything trainable is trained."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch

from kdpipe import checkpoint, job, train, validate
from kdpipe.errors import ArtifactError, NonFiniteError, UsageError
from kdpipe.train_spec import TrainSpec
from tests.pieces import make_cache, make_corpus, new_project, sentences
from tests.runs import EMBEDDING, HIDDEN, new_job, same, state, stopped_at, student

pytestmark = pytest.mark.usefixtures("small_blocks")


def test_a_tiny_student_learns_its_tiny_teacher(project):
    work = new_job(project, student(max_steps=150, learning_rate=3e-3, lr_scheduler_type="cosine"))
    before = validate.measure(work.run)
    assert job.carry_out(work, project / "runs") is None
    after = validate.measure(work.run)
    assert after["eval_loss"] < 0.5 * before["eval_loss"]
    assert after["eval_cosine"] > before["eval_cosine"]


def test_every_trainable_parameter_gets_a_gradient(project):
    work = new_job(project, student(max_grad_norm=0.0))
    frozen = state(work)
    next(iter(train.fit(work.run)))
    after = work.run.modules.state_dict()
    trainable = {name for name, p in work.run.modules.named_parameters() if p.requires_grad}
    unmoved = {name for name in trainable if torch.equal(frozen[name], after[name])}
    # A key's bias shifts all scores of a query alike: its gradient is nothing but rounding.
    assert all("key.bias" in name for name in unmoved)
    assert any("projections" in name for name in trainable)
    assert not any("pooler" in name for name in trainable)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_same_seed_same_bits_and_another_seed_others(project, accumulation):
    ends = []
    for seed in (1, 1, 2):
        work = new_job(project, student(seed=seed, gradient_accumulation_steps=accumulation))
        job.carry_out(work, project / f"runs-{seed}-{len(ends)}")
        ends.append(state(work))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


OTHERS = {
    "amsgrad": {"optim_args": {"amsgrad": True}},
    "adafactor": {"optim": "adafactor", "learning_rate": 1e-2},
    "sgd": {"optim": "sgd"},
    "momentum": {"optim": "sgd", "optim_args": {"momentum": 0.9, "nesterov": True}},
}


@pytest.mark.parametrize(
    ("stop_after", "settings"),
    [
        *((stop_after, {}) for stop_after in (1, 4, 5, 7, 11)),
        *(pytest.param(7, settings, id=name) for name, settings in OTHERS.items()),
    ],
)
def test_stopped_and_resumed_is_never_stopped(project, stop_after, settings):
    spec = student(logging_steps=4, gradient_accumulation_steps=2, **settings)
    straight = new_job(project, spec)
    job.carry_out(straight, project / "straight")
    stopped = new_job(project, spec)
    stopped_at(stopped, stop_after, project / "runs")
    resumed = new_job(project, spec)
    job.carry_out(resumed, project / "runs")
    assert resumed.run.progress == straight.run.progress
    assert same(state(resumed), state(straight))
    assert same(resumed.run.best, straight.run.best)
    assert resumed.log == straight.log


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, {"weights", "state"}),
        (
            {"learning_rate": 0.5, "max_steps": 60, "early_stopping_patience": 2, "eval_steps": 3},
            {"weights", "state", "best"},
        ),
    ],
)
def test_what_is_kept_of_a_run_that_ended_is_all_that_its_result_needs(project, settings, kept):
    ended = new_job(project, student(**settings))
    job.carry_out(ended, project / "runs")
    progress = ended.run.progress
    assert ("best" in kept) == (progress.best_step < progress.step)
    last = project / "runs" / f"step-{progress.step:08d}"
    assert {path.stem for path in last.iterdir()} == kept
    again = new_job(project, student(**settings))
    job.carry_out(again, project / "runs")
    assert same(state(again), state(ended))
    assert same(again.run.best, ended.run.best)
    assert again.log == ended.log


def test_a_damaged_checkpoint_falls_back_to_the_one_before(project):
    work = new_job(project, student())
    for step in train.fit(work.run):
        work.log.add(step, full=True)
        if step.number in (3, 6):
            checkpoint.save(project / "runs", work.run, vars(work.log))
        if step.number == 6:
            break
    newest = project / "runs" / "step-00000006" / "weights.safetensors"
    data = bytearray(newest.read_bytes())
    data[-5] ^= 4
    newest.write_bytes(bytes(data))
    again = new_job(project, student())
    log = checkpoint.resume(project / "runs", again.run)
    assert again.run.progress.step == 3
    assert [line["step"] for line in log["lines"]] == [1, 2, 3]


def test_accumulated_batches_make_the_same_step_as_one_large_one(project):
    """Gradients of objectives that are means over rows or tokens do not depend on the cut."""
    ends = []
    for tokens, accumulation in ((100_000, 1), (64, 1_000)):
        settings = {"tokens_per_batch": tokens, "gradient_accumulation_steps": accumulation}
        plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = {"kind": "teacher_layers", "layers": [1, 4], "config": plain}
        work = new_job(project, student(model=model, max_steps=1, **settings))
        step = next(iter(train.fit(work.run)))
        ends.append((step.loss, step.grad_norm))
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


def test_best_is_kept_and_early_stopping_stops(project):
    rising = student(learning_rate=0.5, max_steps=60, early_stopping_patience=2, eval_steps=3)
    work = new_job(project, rising)
    job.carry_out(work, project / "runs")
    progress = work.run.progress
    assert progress.step < 60
    assert progress.step == progress.best_step + 6
    measured = [line["eval_loss"] for line in work.log.lines if "eval_loss" in line]
    assert progress.best["eval_loss"] == min(measured)
    work.run.modules.load_state_dict(work.run.best)
    assert validate.measure(work.run)["eval_loss"] == pytest.approx(min(measured), rel=1e-6)


def test_weights_follow_their_schedule(project):
    fading = {**HIDDEN, "weight": [[0.0, 1.0], [0.5, 0.0]]}
    work = new_job(project, student([EMBEDDING, fading], max_steps=11))
    steps = list(train.fit(work.run))
    first, last = steps[0], steps[-1]
    assert first.loss == pytest.approx(
        first.losses["0-embedding"] + first.losses["1-hidden"], rel=1e-5
    )
    assert last.loss == pytest.approx(last.losses["0-embedding"], rel=1e-5)
    assert last.losses["1-hidden"] > 0


@pytest.mark.parametrize(
    ("kind", "warmup", "expected"),
    [
        ("linear", 0, [1.0, 0.75, 0.5, 0.25]),
        ("linear", 2, [0.5, 1.0, 1.0, 0.5]),
        ("linear", 0.5, [0.5, 1.0, 1.0, 0.5]),
        ("cosine", 0, [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
        ("constant", 2, [0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_learning_rate(kind, warmup, expected):
    spec = TrainSpec(lr_scheduler_type=kind, warmup_steps=warmup, learning_rate=1.0)
    assert [train.learning_rate(spec, n, 4) for n in (1, 2, 3, 4)] == pytest.approx(expected)


def test_a_loss_that_is_not_finite_stops_with_the_step(project):
    work = new_job(project, student([{"kind": "embedding", "loss": "mse"}]))
    with torch.no_grad():
        work.run.student.model.embeddings.word_embeddings.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="the loss of step 1 is nan: lower learning_rate"):
        list(train.fit(work.run))


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        (
            student([{"kind": "hidden", "layers": {1: 3}}]),
            ArtifactError,
            "cache 'said' lacks hidden states of layer 3",
        ),
        (
            student([{"kind": "hidden", "layers": {3: 2}}]),
            UsageError,
            "names layer 3 of the student",
        ),
        (
            student(model={"kind": "teacher_layers", "layers": [1, 5]}),
            UsageError,
            "layers 1 to 4, not 5",
        ),
        (student(model={"kind": "shape", "model_type": "brt"}), UsageError, "did you mean 'bert'"),
        (
            student(model={"kind": "shape", "hiden_size": 4}),
            UsageError,
            "did you mean 'hidden_size'",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_step(project, spec, kind, message):
    with pytest.raises(kind, match=message):
        new_job(project, spec)


SHAPE = {
    "kind": "shape",
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "model",
    [
        SHAPE,
        {**SHAPE, "model_type": "roberta", "pad_token_id": 0},
        {"kind": "checkpoint", "model": "teacher"},
    ],
)
def test_students_of_every_kind_train(project, model):
    work = new_job(project, student(model=model))
    job.carry_out(work, project / "runs")
    assert work.run.progress.step == 12
    assert work.run.student.dims.embedding == work.run.caches["said"].cache.dims.embedding


def test_rows_held_out_are_never_trained_on(project):
    work = new_job(project, student())
    held = set(np.flatnonzero(work.run.corpus.held_out).tolist())
    seen = {row for epoch in (0, 1) for b in train._epoch(work.run, epoch) for row in b}
    assert held
    assert seen == set(range(work.run.corpus.facts.rows)) - held


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_student_makes_the_same_steps(project, monkeypatch):
    # What a compiler that was killed left behind is no concern of this test.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(project / "compiled"))
    ends = []
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = {"kind": "teacher_layers", "layers": [1, 4], "config": plain}
    for compiled in (False, True):
        work = new_job(project, student(model=model, max_steps=2, torch_compile=compiled))
        ends.append([step.loss for step in train.fit(work.run)])
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


def test_students_that_could_not_be_compared_with_the_teacher_are_refused(project):
    narrow = student([EMBEDDING]) | {"embedding_size": 8}
    with pytest.raises(UsageError, match="compares embeddings of 8 numbers with the teacher's of"):
        new_job(project, narrow)
    work = new_job(project, student([{**EMBEDDING, "loss": "similarity"}]) | {"embedding_size": 8})
    assert job.carry_out(work, project / "runs") is None
    assert "eval_cosine" not in work.run.progress.best
    chosen = student([{**EMBEDDING, "loss": "similarity"}], metric_for_best_model="eval_cosine")
    with pytest.raises(UsageError, match="eval_cosine needs a student without a head"):
        new_job(project, chosen | {"embedding_size": 8})


def test_patience_without_held_out_rows_is_refused(project):
    spec = {"sources": [{"kind": "files", "files": ["text.txt"]}], "tokenizer": "tiny"}
    corpora = {"text": {**spec, "max_seq_length": 32, "validation": 0.0}}
    students = {"s": student(early_stopping_patience=2)}
    place = new_project(project, sentences(40), corpora=corpora, students=students)
    make_cache(place, make_corpus(place))
    corpus, caches = place.inputs("s")
    with pytest.raises(UsageError, match="early_stopping_patience needs held-out rows"):
        job.prepare(place, "s", corpus, caches, "cpu")


def test_a_run_that_was_stopped_by_patience_stays_stopped(project):
    rising = student(learning_rate=0.5, max_steps=60, early_stopping_patience=2, eval_steps=3)
    work = new_job(project, rising)
    job.carry_out(work, project / "runs")
    again = new_job(project, rising)
    job.carry_out(again, project / "runs")
    assert again.run.progress == work.run.progress
    assert same(state(again), state(work))


def test_an_infinite_gradient_is_refused_before_it_is_taken(project):
    work = new_job(project, student())
    before = state(work)
    for parameter in work.run.student.parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient: gradient * math.inf)
            break
    with pytest.raises(NonFiniteError, match="the gradient norm of step 1 is"):
        next(iter(train.fit(work.run)))
    assert same(state(work), before)
