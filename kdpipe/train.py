"""The training loop: a generator of steps over a plan that is fixed before the first one.

Everything random in a step comes from (seed, step, batch), so a run that is continued from any
checkpoint makes the same steps as one that was never stopped, and several processes make those of
one alone, up to the order of sums. Legend: a step is one optimizer update, made from
`gradient_accumulation_steps` batches, which processes share.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from kdpipe.batches import Rows, alternate
from kdpipe.corpus import Corpus
from kdpipe.device import autocast
from kdpipe.encoder import Encoder
from kdpipe.errors import NonFiniteError, UsageError
from kdpipe.gold import Gold
from kdpipe.join import Joined
from kdpipe.loader import Batch, read_ahead, read_batch
from kdpipe.optimizer import new_optimizer, parameters_of
from kdpipe.processes import here
from kdpipe.run import Progress, Run, Step, Training
from kdpipe.shares import count_all, share_of
from kdpipe.terms import Terms
from kdpipe.train_spec import TrainSpec
from kdpipe.validate import measure


def start(
    spec: TrainSpec,
    student: Encoder,
    terms: Terms,
    corpus: Corpus,
    caches: Mapping[str, Joined],
    device: torch.device,
) -> Run:
    """A run before its first step.

    Raises:
        UsageError: an optimizer that cannot be had, or no rows of a kind that is to take turns.
    """
    student.to(device)
    terms.to(device)
    if spec.torch_compile:
        # Otherwise a layer with a tap runs as its neighbour without one was compiled.
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        student.model.compile(dynamic=True)
    optimizer = new_optimizer(spec, student, terms, device)
    scaler = torch.amp.GradScaler(device.type, enabled=spec.fp16)
    labelled = any(term.objective.reads_labels for term in terms.terms)
    problem = student.dims.problem
    gold = None if problem is None or not labelled else Gold(problem, student.dims.classes)
    progress = Progress()
    run = Run(spec, student, terms, corpus, caches, device, optimizer, scaler, progress, {}, gold)
    _kinds(run)  # refuses a corpus of one kind
    return run


def total_steps(run: Run) -> int:
    """Steps of the whole run: as many an epoch as the first one has."""
    if run.spec.max_steps > 0:
        return run.spec.max_steps
    return max(1, math.ceil(run.spec.num_train_epochs * steps_per_epoch(run)))


def steps_per_epoch(run: Run) -> int:
    """Optimizer steps of one pass over the training rows, or over the kind with more batches."""
    return math.ceil(len(_epoch(run, 0)) / batches_in_step(run.spec))


def fit(run: Run) -> Iterator[Step]:
    """Train from where `run.progress` stands; `run` is consistent at every yield.

    Raises:
        NonFiniteError: the loss became NaN or Inf.
        ArtifactError: a file is not what its manifest says.
    """
    spec, total = run.spec, total_steps(run)
    per_epoch = steps_per_epoch(run)
    every = spec.eval_steps or per_epoch
    if is_patience_over(run):
        return
    needs = run.terms.needs_of_teachers()
    groups = itertools.islice(plan(run, run.progress.step), total - run.progress.step)

    def read(group: list[Rows]) -> list[Batch]:
        mine = here().mine(group)
        return [read_batch(run.corpus, run.caches, needs, rows, run.gold) for rows in mine]

    for batches in read_ahead(groups, read, run.device):
        number = run.progress.step + 1
        step = take_step(run, batches, number, total, number / per_epoch)
        run.progress.step = number
        if number % every == 0 or number == total:
            step = replace(step, measured=measure(run))
            keep_best(run, step)
        yield step
        if is_patience_over(run):
            return


def learning_rate(spec: TrainSpec, step: int, total: int) -> float:
    """Of step `step` (from 1) out of `total`: a linear rise, then the schedule down to 0."""
    warmup = spec.warmup_steps if spec.warmup_steps >= 1 else spec.warmup_steps * total
    if step <= warmup:
        return spec.learning_rate * step / warmup
    if spec.lr_scheduler_type == "constant":
        return spec.learning_rate
    progress = (step - 1 - warmup) / max(1.0, total - warmup)
    if spec.lr_scheduler_type == "cosine":
        return spec.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
    return spec.learning_rate * (1.0 - progress)


def is_better(spec: TrainSpec, measured: Mapping[str, float], best: Mapping[str, float]) -> bool:
    """Whether `measured` beats `best` by the metric of the spec, or by the loss where that ties.

    Anything beats nothing.
    """
    name = spec.metric_for_best_model
    if name not in best:
        return True
    if name != "eval_loss" and measured[name] != best[name]:
        return measured[name] > best[name]
    return measured["eval_loss"] < best["eval_loss"]


def take_step(run: Run, batches: list[Batch], number: int, total: int, epoch: float) -> Step:
    """Step `number` (from 1) of `total`, made from its batches; raises NonFiniteError."""
    spec = run.spec
    whole = count_all(batches)
    rate = learning_rate(spec, number, total)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["share"]
    run.student.train()
    sums = torch.zeros(1 + len(run.terms.terms), device=run.device)
    for index, batch in enumerate(batches):
        _seed(spec.seed, number, here().rank + index * here().size)
        moved = batch.to(run.device)
        share = share_of(batch, whole)
        with autocast(run.device, run.dtype):
            said = run.student(moved.tokens, run.terms.needs_of_student())
            value, parts = run.terms(
                said, moved, progress=(number - 1) / max(1, total - 1), share=share
            )
        sums += torch.stack([value.detach(), *parts.values()])
        if value.requires_grad:
            run.scaler.scale(value).backward()
    here().add_up(sums)
    parameters = parameters_of(run.optimizer)
    here().add_up_gradients(parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        run.scaler.unscale_(run.optimizer)
    norm = nn.utils.get_total_norm(gradients)
    # One wait for the device in a step: all numbers come together.
    loss, *each, length = torch.cat([sums, norm.reshape(1).to(sums)]).tolist()
    _refuse_non_finite("loss", loss, number, run)
    if run.spec.fp16 and not math.isfinite(length):
        length = _skip(run, number)
    elif gradients:
        _refuse_non_finite("gradient norm", length, number, run)
        if 0 < spec.max_grad_norm < length:
            # Only then: scaling all gradients by 1 costs as much.
            nn.utils.clip_grads_with_norm_(parameters, spec.max_grad_norm, norm)
        run.scaler.step(run.optimizer)
        run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    losses = dict(zip((term.name for term in run.terms.terms), each, strict=True))
    return Step(number, epoch, loss, losses, rate, length, whole["tokens"], None)


def _skip(run: Run, number: int) -> float:
    """Leave weights alone for a step whose gradients overflow fp16; the next loss is scaled less.

    What stands for the norm of these gradients; raises NonFiniteError where none is small enough.
    """
    run.scaler.update()
    run.progress.skipped += 1
    if run.scaler.get_scale() < 1.0:
        raise NonFiniteError(
            f"the gradients of step {number} overflow fp16, however small the loss is scaled: lower"
            f" learning_rate (now {run.spec.learning_rate}), or set fp16: false; checkpoints before"
            " it are kept"
        )
    return 0.0


def _refuse_non_finite(what: str, value: float, number: int, run: Training) -> None:
    if not math.isfinite(value):
        other = "" if run.dtype == "fp32" else f", or set {run.dtype}: false"
        raise NonFiniteError(
            f"the {what} of step {number} is {value}: lower learning_rate (now"
            f" {run.spec.learning_rate}){other}; checkpoints before it are kept"
        )


def keep_best(training: Training, step: Step) -> None:
    """Note what a step measured, and keep the weights where it is the best so far.

    Raises:
        NonFiniteError: what was measured is NaN or Inf.
    """
    measured, progress = step.measured, training.progress
    if not measured:
        return
    for name, value in measured.items():
        _refuse_non_finite(name, value, step.number, training)
    if not is_better(training.spec, measured, progress.best):
        progress.without_better += 1
        return
    progress.best, progress.best_step, progress.without_better = measured, step.number, 0
    if training.spec.load_best_model_at_end:
        for name, value in training.modules.state_dict().items():
            training.best[name] = value.detach().to("cpu", copy=True)


def is_patience_over(training: Training) -> bool:
    """Whether `early_stopping_patience` ends the training here."""
    patience = training.spec.early_stopping_patience
    return patience is not None and training.progress.without_better >= patience


def plan(run: Run, done: int) -> Iterator[list[Rows]]:
    """The batches of each step, from step `done` on."""
    size = batches_in_step(run.spec)
    for epoch in itertools.count():
        batches = _epoch(run, epoch)
        groups = [batches[first : first + size] for first in range(0, len(batches), size)]
        yield from groups[min(done, len(groups)) :]
        done = max(0, done - len(groups))


def rows_to_train(run: Run) -> Rows:
    """Rows of the corpus that are trained on: not held out, and read by all teachers."""
    return np.flatnonzero(~run.corpus.held_out & run.known)


def batches_in_step(spec: TrainSpec) -> int:
    """Of all processes, and of rows with and without labels where each is a batch of its own."""
    return spec.gradient_accumulation_steps * (2 if spec.parallel_batches else 1)


def _epoch(run: Run, epoch: int) -> list[Rows]:
    spec, lengths = run.spec, run.corpus.lengths
    return alternate(_kinds(run), lengths, spec.tokens_per_batch, seed=spec.seed, epoch=epoch)


def _kinds(run: Run) -> list[Rows]:
    """The rows to train on; those with and those without a label apart, if they take turns.

    Raises UsageError where there are none of the one or the other.
    """
    rows = rows_to_train(run)
    if not run.spec.parallel_batches:
        return [rows]
    labelled = run.corpus.labelled[rows]
    kinds = [rows[labelled], rows[~labelled]]
    if not all(map(len, kinds)):
        raise UsageError(
            "parallel_batches needs rows with a label and rows without one to train on, the corpus"
            f" has {len(kinds[0]):,} and {len(kinds[1]):,}: add a source of the other kind, or take"
            " out parallel_batches"
        )
    return kinds


def _seed(seed: int, step: int, batch: int) -> None:
    """Dropout of a batch: the same in whatever process it is."""
    mixed = np.random.SeedSequence([seed, step, batch]).generate_state(1, np.uint64)
    torch.manual_seed(int(mixed[0] >> 1))
