"""Training in fp16: losses are scaled, what overflows is left out, runs resume to the bit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from kdpipe import job, train, validate
from kdpipe.errors import NonFiniteError
from kdpipe.job import Job
from kdpipe.train_spec import TrainSpec
from tests.runs import new_job, same, state, stopped_at, student

pytestmark = pytest.mark.usefixtures("small_blocks")


def half(root: Path, scale: float = 2.0**16, **settings: Any) -> Job:
    """A student in fp16 whose loss is scaled by `scale`, and by twice that after 4 good steps."""
    work = new_job(root, student(fp16=True, **settings))
    scaler = work.run.scaler
    scaler.load_state_dict(scaler.state_dict() | {"scale": scale, "growth_interval": 4})
    return work


def test_losses_and_gradients_are_nearly_those_of_fp32(project: Path) -> None:
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = {"kind": "teacher_layers", "layers": [1, 4], "config": plain}
    sgd = {"optim": "sgd", "learning_rate": 1.0, "warmup_steps": 0}
    exact = new_job(project, student(model=model, **sgd))
    rough = half(project, 1024.0, model=model, **sgd)
    before = state(exact)
    assert (exact.run.dtype, rough.run.dtype) == ("fp32", "fp16")
    one, other = (next(iter(train.fit(work.run))) for work in (exact, rough))
    assert other.loss == pytest.approx(one.loss, rel=2e-3)
    assert other.loss != one.loss
    assert other.grad_norm == pytest.approx(one.grad_norm, rel=2e-2)
    moved, wanted = state(rough), state(exact)
    assert all(torch.allclose(moved[name], wanted[name], atol=2e-3) for name in moved)
    assert max(float((moved[name] - before[name]).abs().max()) for name in moved) > 0.05


@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_stopped_and_resumed_is_never_stopped(
    project: Path, stop_after: int, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {"logging_steps": 1, "gradient_accumulation_steps": 2}
    straight = half(project, **settings)
    job.carry_out(straight, project / "straight")
    assert "\n3 of 12 steps left out: their gradients overflowed fp16\n" in capfd.readouterr().err
    skipped = [line["step"] for line in straight.log.lines if line["grad_norm"] == 0.0]
    # Four good steps double the scale, which then is too much again.
    assert skipped == [1, 6, 11]
    assert straight.run.progress.skipped == 3
    stopped = half(project, **settings)
    stopped_at(stopped, stop_after, project / "runs")
    resumed = half(project, 1.0, **settings)
    job.carry_out(resumed, project / "runs")
    assert same(state(resumed), state(straight))
    assert resumed.run.progress == straight.run.progress
    assert resumed.run.scaler.state_dict() == straight.run.scaler.state_dict()
    assert resumed.log == straight.log


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor", "sgd"])
def test_a_step_that_overflows_changes_nothing(project: Path, optim: str) -> None:
    work = half(project, 2.0**30, optim=optim)
    before = state(work)
    step = next(iter(train.fit(work.run)))
    assert math.isfinite(step.loss)
    assert step.grad_norm == 0.0
    assert same(state(work), before)
    assert work.run.scaler.get_scale() == 2.0**29
    steps = [memory["step"] for memory in work.run.optimizer.state.values() if memory]
    assert sum(map(float, steps)) == 0.0


def test_gradients_that_overflow_at_any_scale_stop_the_run(project: Path) -> None:
    work = half(project, 4.0)
    parameter = next(p for p in work.run.student.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteError) as caught:
        list(train.fit(work.run))
    assert str(caught.value) == (
        "the gradients of step 3 overflow fp16, however small the loss is scaled: lower"
        " learning_rate (now 0.0002), or set fp16: false; checkpoints before it are kept"
    )


def test_states_that_overflow_stop_the_run(project: Path) -> None:
    work = half(project)
    with torch.no_grad():
        work.run.student.model.get_submodule("encoder.layer.0.intermediate.dense").weight.mul_(1e6)
    with pytest.raises(NonFiniteError) as caught:
        list(train.fit(work.run))
    assert str(caught.value) == (
        "the loss of step 1 is nan: lower learning_rate (now 0.0002), or set fp16: false;"
        " checkpoints before it are kept"
    )


def test_a_measurement_that_overflows_is_none(project: Path) -> None:
    work = half(project, eval_steps=1)
    steps = train.fit(work.run)
    step = next(steps)
    assert step.measured
    with torch.no_grad():
        work.run.student.model.get_submodule("encoder.layer.0.intermediate.dense").weight.mul_(1e6)
    work.run.progress.step = 1
    with pytest.raises(NonFiniteError, match="eval_loss of step 9 is nan"):
        train.keep_best(work.run, replace(step, number=9, measured=validate.measure(work.run)))


def test_one_number_type_is_chosen(project: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainSpec(fp16=True, bf16=True)
    assert caught.value.errors()[0]["msg"] == (
        "Value error, fp16: true and bf16: true are two number types: take one of them out"
    )
    assert half(project, bf16="auto").run.dtype == "fp16"
