"""Objectives on products of vectors, against their formulas on padded tensors."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kdpipe import losses
from kdpipe.activations import Dims
from kdpipe.objectives.base import Pairing
from tests.oracles import MASK
from tests.seen import (
    PAIR,
    TEACHER,
    D,
    close,
    layered,
    loss_of,
    made,
    mapped,
    maps_of,
    of_student,
    of_teacher,
)


@pytest.mark.parametrize("layers", [(0, 2), (1, 1)])
def test_structure(layers):
    fsp = made(
        kind="structure",
        loss="fsp",
        student_layers=layers,
        teacher_layers=(1, 4),
        projection="tanh",
    )
    learned = maps_of(fsp)
    assert {*learned} == {str(layer) for layer in layers}
    mine = tuple(
        mapped(learned, str(layer), "tanh", of_student("hidden", layer)) for layer in layers
    )
    theirs = of_teacher("hidden", 1), of_teacher("hidden", 4)
    assert loss_of(fsp, layered(), PAIR, learned) == close(losses.fsp(mine, theirs, mask=MASK))
    nst = made(kind="structure", loss="nst", student_layers=layers, teacher_layers=(1, 4))
    bare = tuple(of_student("hidden", layer) for layer in layers)
    assert nst.projections(PAIR) == {}
    assert loss_of(nst, layered(), PAIR) == close(losses.nst(bare, theirs, mask=MASK))
    assert {fsp.unit(PAIR), nst.unit(PAIR)} == {"rows"}


@pytest.mark.parametrize("kind", ["linear", "tanh"])
def test_many_layers(kind):
    objective = made(kind="emd", projection=kind)
    learned = maps_of(objective)
    mine = [mapped(learned, str(n), kind, of_student("hidden", n)) for n in (1, 2)]
    theirs = [of_teacher("hidden", n) for n in (1, 2, 3, 4)]
    wanted = losses.emd(mine, theirs, mask=MASK)
    assert loss_of(objective, layered(), PAIR, learned) == close(wanted)
    assert objective.unit(PAIR) == "tokens"


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_relation(reduction):
    pairs = {"query-query": 2.0, "value-value": 1.0, "key-value": 0.5}
    objective = made(
        kind="relation", layers={1: 2, 2: 4}, pairs=pairs, heads=4, reduction=reduction
    )
    wanted = 0.0
    for mine, theirs in ((1, 2), (2, 4)):
        for pair, weight in pairs.items():
            left, right = pair.split("-")
            loss = losses.relation_kl(
                (of_student(left, mine), of_student(right, mine)),
                (of_teacher(left, theirs), of_teacher(right, theirs)),
                heads=4,
                mask=MASK,
                reduction=reduction,
            )
            wanted += weight * loss.item()
    assert loss_of(objective, layered(), PAIR) == close(wanted / 2)
    assert objective.unit(PAIR) == ("tokens" if reduction == "token" else "rows")


def test_relations_of_minilm_v2_by_default():
    objective = made(kind="relation")
    wanted = sum(
        losses.relation_kl(of_student(name, 2), of_teacher(name, 4), heads=2, mask=MASK)
        for name in ("query", "key", "value")
    )
    assert loss_of(objective, layered(), PAIR) == close(wanted)
    with pytest.raises(ValidationError, match="should match pattern"):
        made(kind="relation", pairs={"query-hidden": 1.0})


@pytest.mark.parametrize(
    ("loss", "function", "heads"),
    [
        ("mse", losses.attention_mse, 4),
        ("ce", losses.attention_ce, 4),
        ("mse_sum", losses.attention_mse_sum, 2),
        ("ce_mean", losses.attention_ce_mean, 2),
    ],
)
def test_attention(loss, function, heads):
    pair = Pairing(Dims(5, D, 2, heads), TEACHER)
    objective = made(kind="attention", loss=loss, layers={1: 3, 2: 4})
    wanted = [
        function(
            losses.scores_of(of_student("query", mine), of_student("key", mine), heads),
            losses.scores_of(of_teacher("query", theirs), of_teacher("key", theirs), 4),
            mask=MASK,
        )
        for mine, theirs in ((1, 3), (2, 4))
    ]
    assert loss_of(objective, layered(pair), pair) == close(sum(wanted) / 2)
    assert objective.unit(pair) == "tokens"
