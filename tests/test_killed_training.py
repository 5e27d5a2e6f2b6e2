"""A training killed in the middle of any step: the same command ends with the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from tests.conftest import Figure
from tests.pieces import FILE
from tests.trials import PIPELINE, Scenario, begin, copy, differences, end, run

STEPS, SAVES, FEW = 20, 3, 2
OLD = "max_steps: 6, tokens_per_batch: 128, bf16: false, eval_steps: 2, save_steps: 2"
NEW = (
    f"max_steps: {STEPS}, tokens_per_batch: 64, gradient_accumulation_steps: 5, bf16: false,"
    f" eval_steps: 4, save_steps: {SAVES}, logging_steps: 1, warmup_steps: 5,"
    " lr_scheduler_type: cosine, learning_rate: 1.0e-3"
)
"""Several epochs, and steps of several batches, of which the last one of an epoch has fewer."""
Where = Literal["batch", "before", "after"]
"""Behind the first batch of a step; before its weights change; after that."""


def die(step: int, where: Where) -> None:
    """Let this process be killed in a step, from 1."""
    done, backward = 0, torch.Tensor.backward

    def kill(*_: Any) -> None:
        if done == step - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def count(*_: Any) -> None:
        nonlocal done
        done += 1

    def read(*given: Any, **named: Any) -> None:
        backward(*given, **named)
        kill()

    if where == "batch":
        torch.Tensor.backward = read  # type: ignore[method-assign]
    elif where == "before":
        register_optimizer_step_pre_hook(kill)
    else:
        register_optimizer_step_post_hook(kill)
    register_optimizer_step_post_hook(count)


def begun(scenario: Scenario, folder: Path) -> Path:
    """The project before its training, which is to be another one than that of the scenario."""
    copy(scenario.before, folder)
    (folder / FILE).unlink()
    assert PIPELINE.count(OLD) == 1
    (folder / FILE).write_text(PIPELINE.replace(OLD, NEW))
    return folder


@pytest.mark.timeout(3600)
def test_killed_in_any_step(
    scenarios: dict[str, Scenario], spot: Path, long: bool, figure: Figure
) -> None:
    scenario, draw = scenarios["train"], random.Random(1)
    golden = begun(scenario, spot / "golden")
    straight = run(scenario.words, golden)
    assert straight.code == 0, straight.shown
    steps = draw.sample(range(1, STEPS + 1), STEPS if long else FEW)
    places: list[Where] = ["batch", "before", "after"]
    for number, step in enumerate(steps):
        folder, where = begun(scenario, spot / "here"), places[number % len(places)]
        process = begin(scenario.words, folder, first=partial(die, step, where))
        ended = end(process, folder)
        about = f"step {step}, {where}"
        assert ended.code == -signal.SIGKILL, f"{about}\n{ended.shown}"
        again = run(scenario.words, folder)
        assert again.code == 0, f"{about}\n{again.shown}"
        saved = (step - 1) // SAVES * SAVES
        assert ("continuing after" in again.shown) == bool(saved), about
        assert f"continuing after step {saved} of {STEPS}\n" in again.shown or not saved, about
        assert not differences(folder, golden), about
        shutil.rmtree(folder)
    figure(f"training killed in {len(steps)} of {STEPS} steps: all went on to the same bytes")
