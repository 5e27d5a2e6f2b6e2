"""Objectives on embeddings and hidden states against their formulas, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from kdpipe import losses
from kdpipe.activations import Activations, Dims
from kdpipe.objectives.base import Pairing, Seen
from kdpipe.parts import EMBEDDING, Part
from tests.oracles import MASK, gen
from tests.seen import (
    PAIR,
    STUDENT,
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
    padded,
    refused,
)


@pytest.mark.parametrize(
    ("loss", "function"),
    [
        ("mse", losses.mse),
        ("cosine", losses.cosine),
        ("similarity", losses.similarity_structure),
    ],
)
def test_embedding(loss, function):
    mine, theirs = gen(1, (4, 5)), gen(2, (4, 5))
    seen = Seen(*(Activations(torch.ones(4).long(), {EMBEDDING: x}) for x in (mine, theirs)))
    objective = made(kind="embedding", loss=loss)
    assert loss_of(objective, seen, PAIR) == close(function(mine, theirs))
    assert objective.unit(PAIR) == "rows"


def test_embeddings_of_other_widths():
    other = Pairing(Dims(7, D, 2), TEACHER)
    assert refused(made(kind="embedding"), other) == (
        "objective 'embedding' compares embeddings of 7 numbers with the teacher's of 5: use loss:"
        " similarity, or embedding_size: 5"
    )
    made(kind="embedding", loss="similarity").needs(other)


@pytest.mark.parametrize("kind", ["linear", "relu", "tanh"])
@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize(
    ("loss", "function"), [("mse", losses.hidden_mse), ("cosine", losses.hidden_cosine)]
)
def test_hidden(loss, function, reduction, kind):
    layers = {0: 1, 2: 4}
    objective = made(kind="hidden", layers=layers, loss=loss, reduction=reduction, projection=kind)
    learned = maps_of(objective)
    wanted = [
        function(
            mapped(learned, str(mine), kind, of_student("hidden", mine)),
            of_teacher("hidden", theirs),
            mask=MASK,
            reduction=reduction,
        )
        for mine, theirs in layers.items()
    ]
    assert loss_of(objective, layered(), PAIR, learned) == close(sum(wanted) / 2)
    assert objective.unit(PAIR) == ("tokens" if reduction == "token" else "rows")


def test_hidden_of_the_first_tokens():
    objective = made(kind="hidden", layers={1: 2, 2: 4}, loss="pkd", projection="none")
    found = loss_of(objective, layered(width=D), Pairing(STUDENT, STUDENT.__class__(5, D, 4)))
    wanted = [
        losses.pkd(padded(Part("hidden", mine), D, 1), padded(Part("hidden", theirs), D, 2))
        for mine, theirs in ((1, 2), (2, 4))
    ]
    assert found == close(sum(wanted) / 2)
    assert objective.unit(PAIR) == "rows"


def test_one_projection_for_all_layers():
    objective = made(kind="hidden", layers={0: 0, 1: 3}, share_projection=True)
    learned = maps_of(objective)
    assert [*learned] == ["all"]
    wanted = [
        losses.hidden_mse(
            mapped(learned, "all", "linear", of_student("hidden", mine)),
            of_teacher("hidden", theirs),
            mask=MASK,
        )
        for mine, theirs in ((0, 0), (1, 3))
    ]
    assert loss_of(objective, layered(), PAIR, learned) == close(sum(wanted) / 2)


def test_projections_begin_small_and_without_bias():
    torch.manual_seed(0)
    wide = Pairing(Dims(5, 300, 2), Dims(5, 200, 4))
    projections = made(kind="hidden", layers={1: 2}).projections(wide)
    (linear,) = projections.values()
    assert linear.weight.shape == (200, 300)
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(linear.weight.mean().item()) < 1e-3
    assert not linear.bias.any()


@pytest.mark.parametrize(
    ("layers", "depths", "wanted"),
    [
        ("uniform", (2, 4), {0: 0, 1: 2, 2: 4}),
        ("uniform", (3, 4), {0: 0, 1: 2, 2: 3, 3: 4}),
        ("uniform", (4, 12), {0: 0, 1: 3, 2: 6, 3: 9, 4: 12}),
        ("uniform", (3, 2), {0: 0, 1: 1, 2: 2, 3: 2}),
        ("last", (2, 4), {2: 4}),
        ({1: 1}, (2, 4), {1: 1}),
    ],
)
def test_layer_maps(layers, depths, wanted):
    pair = Pairing(*(Dims(5, D, depth, 2) for depth in depths))
    needs = made(kind="hidden", layers=layers).needs(pair)
    assert needs[0] == {Part("hidden", layer) for layer in wanted}
    assert needs[1] == {Part("hidden", layer) for layer in wanted.values()}
    # Attention has no layer 0.
    needs = made(kind="attention", layers=layers, loss="mse").needs(pair)
    assert needs[0] == {Part(n, layer) for n in ("query", "key") for layer in wanted if layer}
    assert needs[1] == {
        Part(n, layer) for n in ("query", "key") for layer in wanted.values() if layer
    }


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            {"kind": "hidden", "layers": {3: 1}},
            "an objective names layer 3 of the student, which has layers 0 to 2 to learn from",
        ),
        (
            {"kind": "hidden", "layers": {1: 5}},
            "an objective names layer 5 of the teacher, which has layers 0 to 4 to learn from",
        ),
        (
            {"kind": "attention", "loss": "mse_sum", "layers": {0: 1}},
            "an objective names layer 0 of the student, which has layers 1 to 2 to learn from",
        ),
        (
            {"kind": "relation", "heads": 2, "layers": {1: 0}},
            "an objective names layer 0 of the teacher, which has layers 1 to 4 to learn from",
        ),
        (
            {
                "kind": "structure",
                "loss": "nst",
                "student_layers": [0, 2],
                "teacher_layers": [0, 9],
            },
            "an objective names layer 9 of the teacher, which has layers 0 to 4 to learn from",
        ),
        (
            {"kind": "hidden", "layers": {1: 2}, "projection": "none"},
            "projection 'none' needs equal widths, the student has 8 and the teacher 12: use"
            " projection: linear",
        ),
        (
            {"kind": "emd", "projection": "none"},
            "projection 'none' needs equal widths, the student has 8 and the teacher 12: use"
            " projection: linear",
        ),
        (
            {
                "kind": "structure",
                "loss": "fsp",
                "student_layers": [0, 2],
                "teacher_layers": [0, 4],
            },
            "objective 'structure': fsp needs equal widths, the student has 8 and the teacher 12:"
            " use projection: linear, or loss: nst",
        ),
        (
            {"kind": "attention"},
            "objective 'attention': loss 'mse' needs equal numbers of heads, the student has 2 and"
            " the teacher 4: use mse_sum or ce_mean, or kind: relation",
        ),
        (
            {"kind": "attention", "loss": "ce"},
            "objective 'attention': loss 'ce' needs equal numbers of heads, the student has 2 and"
            " the teacher 4: use mse_sum or ce_mean, or kind: relation",
        ),
        (
            {"kind": "relation", "heads": 3},
            "objective 'relation': 3 heads do not divide the student's width of 8: set heads to a"
            " number that divides both widths",
        ),
        (
            {"kind": "relation", "heads": 8},
            "objective 'relation': 8 heads do not divide the teacher's width of 12: set heads to a"
            " number that divides both widths",
        ),
    ],
)
def test_layers_widths_and_heads_that_do_not_fit(objective, message):
    assert refused(made(**objective), PAIR) == message


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_attention_that_also_depends_on_positions(whose):
    relative = {name: Dims(5, D, 2, 2, relative=name == whose) for name in ("student", "teacher")}
    pair = Pairing(**relative)
    rest = (
        f"the attention of the {whose} also depends on positions that queries and keys do not show:"
        " use relations query-query, key-key and value-value"
    )
    for loss in ("mse", "mse_sum", "ce", "ce_mean"):
        objective = made(kind="attention", loss=loss)
        assert refused(objective, pair) == f"objective 'attention': {rest}"
    attention = made(kind="relation", pairs={"query-key": 1.0, "value-value": 1.0})
    assert refused(attention, pair) == f"relation query-key: {rest}"
    made(kind="relation").needs(pair)
