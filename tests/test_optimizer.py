"""Optimizers are those of torch, told what the pipeline file says and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kdpipe import train
from kdpipe.errors import UsageError
from kdpipe.train_spec import TrainSpec
from tests.runs import new_job, state, student

STEPS = 3


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("settings", "kind", "wanted"),
    [
        (
            {"adam_beta1": 0.8, "optim_args": {"amsgrad": True}},
            torch.optim.AdamW,
            {"betas": (0.8, 0.999), "amsgrad": True},
        ),
        ({"optim": "adafactor", "optim_args": {"d": 2.0}}, torch.optim.Adafactor, {"d": 2.0}),
        ({"optim": "sgd"}, torch.optim.SGD, {}),
        (
            {"optim": "sgd", "optim_args": {"momentum": 0.9, "nesterov": True}},
            torch.optim.SGD,
            {"momentum": 0.9, "nesterov": True},
        ),
    ],
)
def test_steps_are_those_of_torch(
    project: Path, settings: dict[str, Any], kind: Any, wanted: dict[str, Any]
) -> None:
    rate = {"learning_rate": 0.05, "lr_scheduler_type": "constant", "warmup_steps": 0}
    more = {"max_grad_norm": 0.0, "max_steps": STEPS, "weight_decay": 0.1}
    work = new_job(project, student(**(rate | more | settings)))
    learned = {name: p for name, p in work.run.modules.named_parameters() if p.requires_grad}
    gradients: list[dict[str, Tensor]] = [{}]
    for name, parameter in learned.items():
        parameter.register_hook(lambda g, name=name: gradients[-1].update({name: g.clone()}))
    by_hand = {name: nn.Parameter(p.detach().clone()) for name, p in learned.items()}
    decaying = [p for name, p in by_hand.items() if not _is_still(name)]
    rest = [p for name, p in by_hand.items() if _is_still(name)]
    sides = [{"params": decaying, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    theirs = kind(sides, lr=0.05, **wanted)
    for _ in train.fit(work.run):
        for name, gradient in gradients[-1].items():
            by_hand[name].grad = gradient
        theirs.step()
        gradients.append({})
    moved = state(work)
    for name, parameter in by_hand.items():
        torch.testing.assert_close(parameter.detach(), moved[name], rtol=1e-5, atol=1e-6)


def _is_still(name: str) -> bool:
    return name.endswith("bias") or "LayerNorm" in name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optim": "sgd", "optim_args": {"momentun": 0.9}},
            "optim_args of sgd have no 'momentun': did you mean 'momentum'?"
            " allowed: momentum, dampening, nesterov",
        ),
        (
            {"optim_args": {"momentum": 0.9}},
            "optim_args of adamw_torch have no 'momentum': allowed: amsgrad",
        ),
        (
            {"optim": "adafactor", "adam_beta2": 0.98},
            "key 'adam_beta2' is about adamw_torch, not adafactor: take it out",
        ),
        ({"optim": "lion"}, "Input should be 'adamw_torch', 'adafactor' or 'sgd'"),
    ],
)
def test_what_an_optimizer_has_not_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainSpec(**settings)
    assert caught.value.errors()[0]["msg"].removeprefix("Value error, ") == message


@pytest.mark.usefixtures("small_blocks")
def test_what_torch_refuses_is_said_in_a_line(project: Path) -> None:
    with pytest.raises(UsageError) as caught:
        new_job(project, student(optim="sgd", optim_args={"nesterov": True}))
    assert str(caught.value) == (
        "train.optim 'sgd' refuses its settings: Nesterov momentum requires a momentum and zero"
        " dampening"
    )
