"""Students that are trained in turn: whose turn it is, what a step moves, and resuming."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdpipe import checkpoint, heads, job, multitask, train, validate
from kdpipe.load import load_encoder
from kdpipe.modules import head_of
from tests.tiny import tiny_teacher_folder
from tests.two_tasks import (
    BODY,
    SETTINGS,
    SHARED,
    STUDENTS,
    declare,
    jobs_of,
    same,
    weights,
)

# whose turn it is


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_turns_go_with_sizes_to_the_power_of_tau(tau: float) -> None:
    sizes = [1000, 10, 300]
    whose = multitask.turns(sizes, tau, seed=3, steps=60_000)
    total = sum(size**tau for size in sizes)
    for place, size in enumerate(sizes):
        wanted = size**tau / total
        spread = (wanted * (1 - wanted) / 60_000) ** 0.5
        assert abs(float((whose == place).mean()) - wanted) <= 4 * spread


def test_a_turn_is_the_place_of_one_random_number() -> None:
    sizes, tau = [20, 5, 75, 7], 0.75
    numbers = np.random.Generator(np.random.PCG64([42, 0, 1])).random(500)
    wanted = []
    for number in numbers:
        left, place = number * sum(size**tau for size in sizes), 0
        while left >= sizes[place] ** tau:
            left -= sizes[place] ** tau
            place += 1
        wanted.append(place)
    assert multitask.turns(sizes, tau, seed=42, steps=500).tolist() == wanted
    assert multitask.turns(sizes, tau, seed=42, steps=90).tolist() == wanted[:90]
    assert multitask.turns(sizes, tau, seed=41, steps=500).tolist() != wanted
    assert set(multitask.turns([10**9, 1], 100.0, seed=1, steps=50)) == {0}


def test_each_takes_the_batches_of_its_own_plan(two_tasks: Path) -> None:
    group = jobs_of(declare(two_tasks, body=BODY | {"tau": 0.5})).group
    planned = list(multitask.plan(group, 0, 40))
    sizes = [len(train.rows_to_train(one)) for one in group.runs.values()]
    names = ["opinion", "things"]
    assert [name for name, _ in planned] == [
        names[turn] for turn in multitask.turns(sizes, 0.5, seed=42, steps=40)
    ]
    for name in names:
        own = train.plan(group.runs[name], 0)
        for mine in (batches for other, batches in planned if other == name):
            assert all(map(np.array_equal, mine, next(own)))
    for done in (1, 17, 39):
        rest = list(multitask.plan(group, done, 40))
        assert [name for name, _ in rest] == [name for name, _ in planned[done:]]
        for (_, mine), (_, theirs) in zip(rest, planned[done:], strict=True):
            assert all(map(np.array_equal, mine, theirs))


def test_an_epoch_is_one_pass_over_all_rows_together(two_tasks: Path) -> None:
    settings = {key: value for key, value in SETTINGS.items() if key != "max_steps"}
    group = jobs_of(
        declare(two_tasks, body=BODY | {"train": settings | {"num_train_epochs": 2}})
    ).group
    each = [train.steps_per_epoch(one) for one in group.runs.values()]
    assert min(each) > 1
    assert multitask.steps_per_epoch(group) == sum(each)
    assert multitask.total_steps(group) == 2 * sum(each)


# one step


@pytest.mark.parametrize(
    "optim", [{}, {"optim": "adafactor"}, {"optim": "sgd", "optim_args": {"momentum": 0.9}}]
)
def test_a_step_moves_the_body_and_the_head_of_one_student_alone(
    two_tasks: Path, optim: dict[str, Any]
) -> None:
    strong = SETTINGS | {"weight_decay": 0.5, "learning_rate": 1e-2, "warmup_steps": 0} | optim
    jobs = jobs_of(declare(two_tasks, body=BODY | {"train": strong}))
    turn, seen = multitask.fit(jobs.group), Counter[str]()
    before = weights(jobs)
    for _ in range(8):
        step = next(turn)
        after = weights(jobs)
        moved = {name for name in after if not torch.equal(before[name], after[name])}
        (whose,) = {name.partition(".")[0] for name in step.losses}
        # A key's bias shifts all scores of a query alike: its gradient is nothing but rounding.
        still = {name for name in after if name not in moved and "key.bias" not in name}
        assert not any(name.startswith(f"{whose}.") for name in still)
        # Without a gradient there is neither decay nor momentum.
        other = ({*STUDENTS} - {whose}).pop()
        body = {name for name in after if f"{other}.student.model.bert.e" in name}
        assert still == {name for name in after if name.startswith(f"{other}.")} - body
        assert len(still) >= 2
        seen[whose] += 1
        before = after
    assert seen.keys() == STUDENTS.keys()


def test_the_first_step_is_that_of_the_student_alone(two_tasks: Path) -> None:
    sizes = [
        len(train.rows_to_train(one)) for one in jobs_of(declare(two_tasks)).group.runs.values()
    ]
    seed = next(n for n in range(99) if multitask.turns(sizes, 1.0, seed=n, steps=1)[0] == 0)
    settings = SETTINGS | {"seed": seed}
    first = next(multitask.fit(jobs_of(declare(two_tasks, body=BODY | {"train": settings})).group))
    alone = STUDENTS["opinion"] | {"model": BODY["model"], "train": settings}
    project = declare(two_tasks, STUDENTS | {"opinion": alone})
    corpus, caches = project.inputs("opinion")
    step = next(train.fit(job.prepare(project, "opinion", corpus, caches, "cpu").run))
    assert (first.loss, first.grad_norm, first.tokens) == (step.loss, step.grad_norm, step.tokens)
    assert first.losses == {f"opinion.{name}": loss for name, loss in step.losses.items()}


def test_a_body_is_of_the_first_teacher_and_a_head_of_its_own(two_tasks: Path) -> None:
    group = jobs_of(declare(two_tasks)).group
    judge = load_file(two_tasks / "judge/model.safetensors")
    tagger = load_file(two_tasks / "tagger/model.safetensors")
    words = "embeddings.word_embeddings.weight"
    for one in group.runs.values():
        assert torch.equal(one.student.base.state_dict()[words], judge[f"bert.{words}"])
    heads = [one.student.model.classifier.weight for one in group.runs.values()]
    assert torch.equal(heads[0], judge["classifier.weight"])
    assert torch.equal(heads[1], tagger["classifier.weight"])


def test_every_parameter_is_optimised_once(two_tasks: Path) -> None:
    group = jobs_of(declare(two_tasks)).group
    listed = [id(p) for one in group.optimizer.param_groups for p in one["params"]]
    trained = {id(p) for p in group.modules.parameters() if p.requires_grad}
    assert len(listed) == len(set(listed))
    assert set(listed) == trained
    shared = Counter(id(p) for one in group.runs.values() for p in one.modules.parameters())
    assert {shared[id(p)] for p in group.runs["things"].student.base.parameters()} == {2}
    rates = {one["lr"] for one in group.optimizer.param_groups}
    assert rates == {2e-4}


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "mpnet", "modernbert"])
def test_bodies_of_every_family_are_shared(tmp_path: Path, family: str) -> None:
    folder = tiny_teacher_folder(tmp_path / family, family=family)
    base = load_encoder(folder, head_of(folder)).base
    for kind in ("sequence", "token", "mlm"):
        keys = {} if kind == "mlm" else {"id2label": {0: "a", 1: "b"}}
        model = heads.put_on(base, kind, **keys)
        tied = model.get_output_embeddings()
        multitask.share_body(base, model)
        mine = {id(p) for p in model.base_model.parameters()}
        theirs = {name: id(p) for name, p in base.named_parameters()}
        assert mine >= {p for name, p in theirs.items() if not name.startswith("pooler")}
        if kind == "mlm" and tied is not None:
            assert model.get_output_embeddings().weight is base.get_input_embeddings().weight


# the whole training


@pytest.mark.parametrize("stop_after", [1, 5, 7])
def test_stopped_and_resumed_is_never_stopped(two_tasks: Path, stop_after: int) -> None:
    settings = SETTINGS | {"gradient_accumulation_steps": 2, "logging_steps": 4}
    project = declare(two_tasks, body=BODY | {"train": settings})
    straight = jobs_of(project)
    assert job.carry_out_together(straight, two_tasks / "straight") is None
    stopped = jobs_of(project)
    for step in multitask.fit(stopped.group):
        stopped.log.add(step, full=step.number % 4 == 0 or step.measured is not None)
        if step.number == stop_after:
            checkpoint.save(two_tasks / "runs", stopped.group, vars(stopped.log))
            break
    resumed = jobs_of(project)
    assert not same(weights(resumed), weights(straight))
    job.carry_out_together(resumed, two_tasks / "runs")
    assert resumed.group.progress == straight.group.progress
    assert same(weights(resumed), weights(straight))
    assert same(resumed.group.best, straight.group.best)
    assert resumed.log == straight.log


def test_what_is_measured_is_the_mean_over_the_students(two_tasks: Path) -> None:
    group = jobs_of(declare(two_tasks)).group
    measured = multitask.measure(group)
    each = [validate.measure(one)["eval_loss"] for one in group.runs.values()]
    assert measured == pytest.approx(
        {
            "eval_loss": sum(each) / 2,
            "opinion.eval_loss": each[0],
            "things.eval_loss": each[1],
        }
    )


def test_both_students_learn(two_tasks: Path) -> None:
    settings = SETTINGS | {"max_steps": 60, "learning_rate": 3e-3, "eval_steps": 30}
    jobs = jobs_of(declare(two_tasks, body=BODY | {"train": settings}))
    before = multitask.measure(jobs.group)
    job.carry_out_together(jobs, two_tasks / "runs")
    after = multitask.measure(jobs.group)
    assert all(after[name] < 0.7 * before[name] for name in before)


def test_embeddings_and_labels_alone_share_a_body_too(two_tasks: Path) -> None:
    """A teacher's vectors, and gold labels without a teacher."""
    students = {
        "opinion": {
            "corpus": "reviews",
            "model": SHARED,
            "head": {"kind": "sequence"},
            "objectives": [{"kind": "labels"}],
        },
        "vectors": {
            "caches": ["of-tiny"],
            "model": SHARED,
            "objectives": [{"kind": "embedding"}],
        },
    }
    jobs = jobs_of(declare(two_tasks, students))
    opinion, vectors = jobs.group.runs.values()
    assert opinion.student.base.pooler.dense.weight.requires_grad
    assert not vectors.student.base.pooler.dense.weight.requires_grad
    job.carry_out_together(jobs, two_tasks / "runs")
    words = [one.student.base.embeddings.word_embeddings.weight for one in (opinion, vectors)]
    assert words[0] is words[1]
    tiny = load_file(two_tasks / "teacher/model.safetensors")["embeddings.word_embeddings.weight"]
    assert not torch.equal(words[0], tiny)
    assert "eval_cosine" in jobs.group.progress.best
