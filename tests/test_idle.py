"""Weights without a gradient are named, once, in the modules that they fill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdpipe import job
from kdpipe.activations import Dims
from kdpipe.idle import Idle
from kdpipe.objectives import MatchEmbedding
from kdpipe.objectives.base import Pairing
from kdpipe.parts import Needs
from kdpipe.run import Step
from kdpipe.terms import Term
from tests import runs
from tests.pieces import make_cache, make_corpus, new_project, sentences

pytestmark = pytest.mark.usefixtures("small_blocks")

DIMS = Dims(4, 4, 1)


def notes(told: str) -> list[str]:
    return [line for line in told.splitlines() if line.startswith("note: ")]


def terms(*weights: Any) -> list[Term]:
    made = [MatchEmbedding(kind="embedding", weight=weight) for weight in weights]
    pair = Pairing(DIMS, DIMS)
    return [Term(str(n), {}, one, pair, Needs(), Needs()) for n, one in enumerate(made)]


def step(number: int, *losses: str) -> Step:
    return Step(number, 0.1, 1.0, dict.fromkeys(losses, 1.0), 0.1, 1.0, 5, None)


def three() -> nn.ModuleDict:
    """a, b.c and b.d of two weights each, a frozen one among them."""
    made = nn.ModuleDict({"a": nn.Linear(2, 2)})
    made["b"] = nn.ModuleDict({"c": nn.Linear(2, 2), "d": nn.Linear(2, 2)})
    made["frozen"] = nn.Linear(2, 2).requires_grad_(False)
    return made


@pytest.mark.parametrize(
    ("used", "named"),
    [
        ([], "6 of 6 weights learn nothing from these objectives: a.*, b.*;"),
        (["a"], "4 of 6 weights learn nothing from these objectives: b.*;"),
        (["a", "b.c"], "2 of 6 weights learn nothing from these objectives: b.d.*;"),
        (["b.d"], "4 of 6 weights learn nothing from these objectives: a.*, b.c.*;"),
        (["a", "b.c", "b.d"], None),
    ],
)
def test_modules_that_are_idle_as_a_whole_are_named_as_a_whole(
    used: list[str], named: str | None
) -> None:
    modules, found = three(), list[str | None]()
    idle = Idle(modules, terms(1.0))
    for number in (1, 2):
        for name in used:
            modules.get_submodule(name)(torch.ones(2)).sum().backward()
        found.append(idle.note(step(number, "loss")))
    end = " add an objective, or train on from there"
    assert found == [None if named is None else f"note: {named}{end}", None]


def test_a_weight_among_others_is_named_by_itself() -> None:
    modules = nn.ModuleList(nn.Linear(1, 1) for _ in range(5))
    idle = Idle(modules, terms(1.0))
    torch.stack([one.get_parameter("weight") for one in modules]).sum().backward()
    assert idle.note(step(1, "loss")) == (
        "note: 5 of 10 weights learn nothing from these objectives: 0.bias, 1.bias, 2.bias, ...;"
        " add an objective, or train on from there"
    )


def test_of_students_in_turn_all_are_heard_first() -> None:
    modules = three()
    idle = Idle(modules, terms(1.0, 0.5))
    modules["a"](torch.ones(2)).sum().backward()
    assert idle.note(step(1, "one.0")) is None
    assert idle.note(step(2, "one.0")) is None
    modules.get_submodule("b.c")(torch.ones(2)).sum().backward()
    told = idle.note(step(3, "other.0"))
    assert told is not None
    assert told.startswith("note: 2 of 6 weights learn nothing from these objectives: b.d.*;")


def test_of_an_objective_that_comes_later_nothing_is_said() -> None:
    idle = Idle(three(), terms(1.0, ((0.0, 0.0), (1.0, 1.0))))
    assert idle.note(step(1, "0", "1")) is None


def test_the_tail_of_a_student_of_relations(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = {"corpus": "text", "teacher": "tiny", "dtype": "fp32"}
    more = said | {"targets": [{"kind": "qkv", "layers": [4]}, {"kind": "embedding"}]}
    relation, embedding = {"kind": "relation"}, {"kind": "embedding"}
    found = []
    for objectives in ([relation], [relation, embedding]):
        spec = runs.student(objectives, max_steps=3)
        place = new_project(project, sentences(40), caches={"said": more}, students={"s": spec})
        if len(objectives) == 1:
            make_cache(place, make_corpus(place))
        work = job.prepare(place, "s", *place.inputs("s"), "cpu")
        job.carry_out(work, project / str(len(objectives)))
        found.append(notes(capfd.readouterr().err))
    assert found == [
        [
            "note: 10 of 37 weights learn nothing from these objectives:"
            " encoder.layer.1.attention.output.*, encoder.layer.1.intermediate.*,"
            " encoder.layer.1.output.*; add an objective, or train on from there"
        ],
        [],
    ]


def test_a_run_that_continues_says_nothing_more(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = runs.student([runs.HIDDEN])
    runs.stopped_at(runs.new_job(project, spec), 2, project / "runs")
    job.carry_out(runs.new_job(project, spec), project / "runs")
    assert notes(capfd.readouterr().err) == []
    straight = runs.new_job(project, spec)
    job.carry_out(straight, project / "straight")
    assert len(notes(capfd.readouterr().err)) == 1
    watched = [p for p in straight.run.modules.parameters() if p._post_accumulate_grad_hooks]
    assert watched == []
