"""What objectives see, made of numbers in closed form.

Legend: B rows, T places of the longest row, N real tokens, D width of the student, E of the
teacher.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from kdpipe.activations import Activations, Dims
from kdpipe.errors import UsageError
from kdpipe.objectives import AnyObjective, Objective
from kdpipe.objectives.base import Pairing, Seen
from kdpipe.parts import LOGITS, TOKEN_LOGITS, Part, PartName
from tests.oracles import CLOSE, LENGTHS, B, N, flat, gen

D, E = 8, 12
STUDENT = Dims(embedding=5, hidden=D, layers=2, heads=2)
TEACHER = Dims(embedding=5, hidden=E, layers=4, heads=4)
PAIR = Pairing(STUDENT, TEACHER)
SINGLE, SEVERAL = "single_label_classification", "multi_label_classification"
NUMBER = ("regression", ("score",))
SPAN = ("span", ("start", "end"))
CLASSES = ("a", "b", "c", "d")
ROWS = torch.ones(6).long()
"""Lengths of six rows."""
WORDS = torch.tensor([[0, 1, 1, 0, 1], [0, 1, 0, 0, 0]], dtype=torch.bool)
"""[B, T]: which places are the first token of a word."""


def made(**keys: Any) -> Objective:
    found: Objective = TypeAdapter(AnyObjective).validate_python(keys)
    return found


def with_head(problem: str | None, classes: tuple[str, ...] = CLASSES) -> Pairing:
    """Student and teacher with the same head."""
    head: Any = {"problem": problem, "classes": classes}
    return Pairing(Dims(5, D, 2, 2, **head), Dims(5, E, 4, 4, **head))


def padded(part: Part, width: int, seed: int) -> Tensor:
    """[B, T, width]: other numbers for each part; at padding there is what must not matter."""
    order = ("embedding", "hidden", "query", "key", "value", "logits", "token_logits")
    mine = 100 * seed + 10 * order.index(part.name) + (part.layer or 0)
    return gen(mine, (B, N, width))


def of_student(name: PartName, layer: int) -> Tensor:
    return padded(Part(name, layer), D, 1)


def of_teacher(name: PartName, layer: int) -> Tensor:
    return padded(Part(name, layer), E, 2)


def layered(pair: Pairing = PAIR, *, width: int | None = None) -> Seen:
    """All parts with layers; `width` for both in place of their own."""
    said = []
    for seed, dims in ((1, pair.student), (2, pair.teacher)):
        parts = [Part("hidden", layer) for layer in range(dims.layers + 1)]
        names: tuple[PartName, ...] = ("query", "key", "value")
        parts += [Part(name, layer) for name in names for layer in range(1, dims.layers + 1)]
        values = {part: flat(padded(part, width or dims.hidden, seed)) for part in parts}
        said.append(Activations(LENGTHS, values))
    return Seen(*said)


def maps_of(objective: Objective, pair: Pairing = PAIR) -> nn.ModuleDict:
    """Projections with weights and biases that matter."""
    learned = nn.ModuleDict(objective.projections(pair)).double()
    for number, weights in enumerate(learned.parameters()):
        weights.data = gen(7 + number, tuple(weights.shape))
    return learned


def mapped(learned: nn.ModuleDict, name: str, kind: str, states: Tensor) -> Tensor:
    """What a projection does, from its bare weights."""
    linear = learned.get_submodule(name if kind == "linear" else f"{name}.0")
    assert isinstance(linear, nn.Linear)
    said = states @ linear.weight.T + linear.bias
    return {"linear": said, "relu": said.clamp(min=0.0), "tanh": said.tanh()}[kind].detach()


def loss_of(objective: Objective, seen: Seen, pair: Pairing, learned: Any = None) -> float:
    maps = nn.ModuleDict() if learned is None else learned
    needs = objective.needs(pair)
    assert needs[0] <= seen.student.values.keys()
    assert needs[1] <= seen.teacher.values.keys()
    found = objective.compute(seen, pair, maps)
    assert found.shape == ()
    return found.item()


def close(value: Tensor | float) -> Any:
    return pytest.approx(float(value), abs=CLOSE)


def _begin(objective: Objective, pair: Pairing) -> None:
    objective.needs(pair)
    objective.projections(pair)


def refused(objective: Objective, pair: Pairing) -> str:
    """The message with which an objective refuses these models."""
    with pytest.raises(UsageError) as caught:
        _begin(objective, pair)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def about_rows(width: int = 4, gold: Tensor | None = None) -> Seen:
    mine, theirs = gen(1, (6, width)), gen(2, (6, width))
    return Seen(Activations(ROWS, {LOGITS: mine}), Activations(ROWS, {LOGITS: theirs}), gold)


def about_tokens(width: int = 4, gold: Tensor | None = None, words: Tensor | None = None) -> Seen:
    mine, theirs = (flat(padded(TOKEN_LOGITS, width, seed)) for seed in (1, 2))
    return Seen(
        Activations(LENGTHS, {TOKEN_LOGITS: mine}),
        Activations(LENGTHS, {TOKEN_LOGITS: theirs}),
        gold,
        words,
    )


def both(width: int = 4) -> tuple[Tensor, Tensor]:
    return padded(TOKEN_LOGITS, width, 1), padded(TOKEN_LOGITS, width, 2)


def heads(mine: tuple[Any, ...], theirs: tuple[Any, ...]) -> Pairing:
    one, other = (
        Dims(5, D, 2, problem=problem, classes=tuple(classes))
        for problem, classes in (mine, theirs)
    )
    return Pairing(one, other)
