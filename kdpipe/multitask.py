"""Several students that share a body, trained in turn: each step is one of them.

Whose turn it is comes from (seed, step), and each takes the next batches of its own plan: what was
said of the loop over one student is true of this one too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdpipe import train, validate
from kdpipe.batches import Rows
from kdpipe.device import Dtype
from kdpipe.loader import Batch, read_ahead, read_batch
from kdpipe.processes import here
from kdpipe.run import Progress, Run, Step
from kdpipe.train_spec import TrainSpec

_TURNS = 1
"""Tells the random numbers of turns from those of an epoch's plan, which begin alike."""


@dataclass(frozen=True)
class Together:
    """Students in training that share a body, an optimizer, and where they stand."""

    runs: dict[str, Run]
    """By the name of the student; the shared parameters are the same objects in all of them."""
    tau: float
    best: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the best step, on the CPU; empty before the first measurement."""

    @property
    def spec(self) -> TrainSpec:
        """How the body is trained."""
        return self._first.spec

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Over the parameters of all students, the shared ones once."""
        return self._first.optimizer

    @property
    def dtype(self) -> Dtype:
        """Of the matrix products."""
        return self._first.dtype

    @property
    def scaler(self) -> torch.amp.GradScaler:
        """Keeps the gradients of all within fp16."""
        return self._first.scaler

    @property
    def progress(self) -> Progress:
        """Where they stand."""
        return self._first.progress

    @property
    def modules(self) -> nn.ModuleDict:
        """Everything with weights: under the name of each student what its run has."""
        return nn.ModuleDict({name: run.modules for name, run in self.runs.items()})

    @property
    def _first(self) -> Run:
        return next(iter(self.runs.values()))


def together(runs: Mapping[str, Run], tau: float) -> Together:
    """One training of runs before their first step, whose bodies have the same weights."""
    (name, first), *others = runs.items()
    joined = {name: first}
    for name, run in others:
        replaced = share_body(first.student.base, run.student.model)
        for group in run.optimizer.param_groups:
            own = [parameter for parameter in group["params"] if id(parameter) not in replaced]
            if own:
                first.optimizer.add_param_group({**group, "params": own})
        joined[name] = replace(
            run, optimizer=first.optimizer, scaler=first.scaler, progress=first.progress
        )
    return Together(joined, tau)


def share_body(body: PreTrainedModel, model: PreTrainedModel) -> set[int]:
    """Put the parameters of `body` into `model`, also where its head has them once more.

    Poolers stay apart: not every head has one. Returns the ids of the parameters replaced.
    """
    shared = {name: p for name, p in body.named_parameters() if not name.startswith("pooler.")}
    mine = {
        id(parameter): shared[name]
        for name, parameter in model.base_model.named_parameters()
        if not name.startswith("pooler.")
    }
    assert len(mine) == len(shared), "bodies are built by one section"
    for module in model.modules():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            if id(parameter) in mine:
                assert torch.equal(parameter, mine[id(parameter)]), "from one seed"
                setattr(module, name, mine[id(parameter)])
    return {*mine}


def shares_of_turns(sizes: Sequence[float], tau: float) -> npt.NDArray[np.float64]:
    """[S]: with what probability a step is one of each student: they go with size^tau."""
    # By the largest, so that no power overflows.
    weights: npt.NDArray[np.float64] = (np.asarray(sizes, np.float64) / max(sizes)) ** tau
    weights /= weights.sum()
    return weights


def turns(sizes: Sequence[int], tau: float, *, seed: int, steps: int) -> npt.NDArray[np.int64]:
    """[steps]: whose step each is, with probabilities that go with size^tau.

    Each is a function of (seed, step) alone: more steps have the same beginning.
    """
    borders = np.cumsum(shares_of_turns(sizes, tau))[:-1]
    drawn = np.random.Generator(np.random.PCG64([seed, 0, _TURNS])).random(steps)
    return np.searchsorted(borders, drawn, side="right")


def steps_per_epoch(group: Together) -> int:
    """As many steps as all students need for one pass over their rows."""
    return sum(train.steps_per_epoch(run) for run in group.runs.values())


def total_steps(group: Together) -> int:
    """Steps of the whole training."""
    if group.spec.max_steps > 0:
        return group.spec.max_steps
    return max(1, math.ceil(group.spec.num_train_epochs * steps_per_epoch(group)))


def fit(group: Together) -> Iterator[Step]:
    """Train from where `group.progress` stands; `group` is consistent at every yield.

    Losses of a step are called `<student>.<objective>`. What is measured is the mean over the
    students, and under `<student>.<metric>` that of each.

    Raises:
        NonFiniteError: the loss became NaN or Inf.
        ArtifactError: a file is not what its manifest says.
    """
    spec, progress = group.spec, group.progress
    total, per_epoch = total_steps(group), steps_per_epoch(group)
    every = spec.eval_steps or per_epoch
    if train.is_patience_over(group):
        return
    needs = {name: run.terms.needs_of_teachers() for name, run in group.runs.items()}

    def read(turn: tuple[str, list[Rows]]) -> tuple[str, list[Batch]]:
        name, some = turn
        run = group.runs[name]
        mine = here().mine(some)
        batches = [read_batch(run.corpus, run.caches, needs[name], r, run.gold) for r in mine]
        return name, batches

    device = next(iter(group.runs.values())).device
    for name, batches in read_ahead(plan(group, progress.step, total), read, device):
        number = progress.step + 1
        run = group.runs[name]
        step = train.take_step(run, batches, number, total, number / per_epoch)
        step = replace(step, losses={f"{name}.{key}": loss for key, loss in step.losses.items()})
        progress.step = number
        if number % every == 0 or number == total:
            step = replace(step, measured=measure(group))
            train.keep_best(group, step)
        yield step
        if train.is_patience_over(group):
            return


def plan(group: Together, done: int, total: int) -> Iterator[tuple[str, list[Rows]]]:
    """The student and the batches of each step, from step `done` on."""
    names = [*group.runs]
    sizes = [len(train.rows_to_train(run)) for run in group.runs.values()]
    whose = turns(sizes, group.tau, seed=group.spec.seed, steps=total)
    before = np.bincount(whose[:done], minlength=len(names)).tolist()
    plans = [train.plan(run, had) for run, had in zip(group.runs.values(), before, strict=True)]
    for turn in whose[done:].tolist():
        yield names[turn], next(plans[turn])


def measure(group: Together) -> dict[str, float]:
    """Means over the students that have held-out rows, then what was measured of each."""
    each = {name: validate.measure(run) for name, run in group.runs.items()}
    keys = dict.fromkeys(key for measured in each.values() for key in measured)
    found: dict[str, float] = {}
    for key in keys:
        values = [measured[key] for measured in each.values() if key in measured]
        found[key] = sum(values) / len(values)
    return found | {
        f"{name}.{key}": value for name, measured in each.items() for key, value in measured.items()
    }


def apart(group: Together) -> dict[str, Run]:
    """The runs with weights of their own, the last and the best ones, so that each is written."""
    return {
        name: replace(
            run,
            student=copy.deepcopy(run.student),
            best={
                key.removeprefix(f"{name}."): value
                for key, value in group.best.items()
                if key.startswith(f"{name}.")
            },
        )
        for name, run in group.runs.items()
    }
