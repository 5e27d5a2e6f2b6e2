"""The objective `logits` against its formulas on padded tensors, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from kdpipe import losses
from kdpipe.activations import Activations
from kdpipe.objectives.base import Seen
from kdpipe.parts import LOGITS, TOKEN_LOGITS
from tests.oracles import MASK, B, N, flat
from tests.seen import (
    NUMBER,
    ROWS,
    SEVERAL,
    SINGLE,
    SPAN,
    WORDS,
    about_rows,
    about_tokens,
    both,
    close,
    heads,
    loss_of,
    made,
    refused,
    with_head,
)

FORMS: dict[str, tuple[dict[str, Any], Any]] = {
    "kl": ({}, losses.kl_divergence),
    "warm": (
        {"temperature": 3.0},
        lambda s, t, **o: 9 * losses.kl_divergence(s / 3, t / 3, **o),
    ),
    "unscaled": (
        {"temperature": 3.0, "scale_by_temperature_squared": False},
        lambda s, t, **o: losses.kl_divergence(s / 3, t / 3, **o),
    ),
    "reverse": (
        {"loss": "reverse_kl", "temperature": 2.0},
        lambda s, t, **o: 4 * losses.kl_divergence(t / 2, s / 2, **o),
    ),
    "jensen-shannon": (
        {"loss": "jensen_shannon"},
        lambda s, t, **o: losses.kl_divergence(s, t, direction="jensen-shannon", **o),
    ),
    "ce": (
        {"loss": "ce", "temperature": 2.0},
        lambda s, t, **o: 4 * losses.soft_cross_entropy(s / 2, t / 2, **o),
    ),
    "mse": (
        {"loss": "mse", "temperature": 2.0},
        lambda s, t, **o: losses.logits_mse(s, t, **o) / 4,
    ),
    "flsw": (
        {"temperature": {"kind": "flsw", "temperature": 3.0, "beta": 2.0, "gamma": 1.0}},
        lambda s, t, **o: losses.kl_divergence(
            s,
            t,
            temperature=losses.temperature.flsw(
                s, t, temperature=3.0, beta=2.0, gamma=1.0, mask=o.get("mask")
            ),
            **o,
        ),
    ),
    "cwsm": (
        {"loss": "ce", "temperature": {"kind": "cwsm", "beta": 2.0}},
        lambda s, t, **o: losses.soft_cross_entropy(
            s,
            t,
            temperature=losses.temperature.cwsm(
                s, t, temperature=4.0, beta=2.0, mask=o.get("mask")
            ),
            **o,
        ),
    ),
}
"""What is set, and the loss by other functions of student, teacher and mask."""


@pytest.mark.parametrize("form", FORMS)
def test_logits_of_rows(form):
    keys, function = FORMS[form]
    objective, pair = made(kind="logits", **keys), with_head("single_label_classification")
    seen = about_rows()
    wanted = function(seen.student[LOGITS], seen.teacher[LOGITS])
    assert loss_of(objective, seen, pair) == close(wanted)
    assert objective.unit(pair) == "rows"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize("words", [None, WORDS])
def test_logits_of_tokens(form, reduction, words):
    """Only the first tokens of words count, where rows are words."""
    keys, function = FORMS[form]
    objective = made(kind="logits", reduction=reduction, **keys)
    mask = MASK if words is None else words
    wanted = function(*both(), mask=mask, reduction=reduction)
    seen = about_tokens(words=None if words is None else flat(words))
    assert loss_of(objective, seen, with_head("token")) == close(wanted)
    unit = "words" if reduction == "token" else "rows"
    assert objective.unit(with_head("token")) == unit


@pytest.mark.parametrize("form", FORMS)
def test_logits_of_spans(form):
    """A softmax over the real places of a row, for the start and for the end."""
    keys, function = FORMS[form]
    mine, theirs = both(2)
    wanted = sum(
        function(*(losses.span_logits(said[..., end], MASK) for said in (mine, theirs)))
        for end in (0, 1)
    )
    objective, pair = made(kind="logits", **keys), with_head(*SPAN)
    assert loss_of(objective, about_tokens(2), pair) == close(wanted)
    assert objective.unit(pair) == "rows"


def test_logits_of_spans_do_not_depend_on_the_longest_row():
    objective, pair = made(kind="logits"), with_head(*SPAN)
    seen, alone = about_tokens(2), []
    for first, last in ((0, 5), (5, 8)):
        lengths = torch.tensor([last - first])
        values = (seen.student, seen.teacher)
        one = Seen(
            *(Activations(lengths, {TOKEN_LOGITS: x[TOKEN_LOGITS][first:last]}) for x in values)
        )
        alone.append(loss_of(objective, one, pair))
    assert loss_of(objective, seen, pair) == close(sum(alone) / 2)


@pytest.mark.parametrize("loss", ["kl", "ce"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_logits_of_several_labels(loss, temperature):
    pair, seen = with_head("multi_label_classification"), about_rows()
    mine, theirs = (x[LOGITS] / temperature for x in (seen.student, seen.teacher))
    bits = theirs.sigmoid() * mine.sigmoid().log() + (-theirs).sigmoid() * (-mine).sigmoid().log()
    objective = made(kind="logits", loss=loss, temperature=temperature)
    assert loss_of(objective, seen, pair) == close(-bits.mean() * temperature**2)


def test_logits_of_a_regression():
    pair, seen = with_head("regression", ("score",)), about_rows(1)
    wanted = (seen.student[LOGITS] - seen.teacher[LOGITS]).square().mean()
    assert loss_of(made(kind="logits", loss="mse"), seen, pair) == close(wanted)


def test_probability_shift():
    shift = made(kind="logits", probability_shift=True)
    plain = made(kind="logits")
    gold = torch.tensor([0, 3, -100, 1, 2, -100])
    pair, seen = with_head("single_label_classification"), about_rows(gold=gold)
    shifted = seen.teacher[LOGITS].clone()
    for row, label in enumerate(gold.tolist()):
        if label >= 0:
            top = int(shifted[row].argmax())
            high, low = shifted[row, top].item(), shifted[row, label].item()
            shifted[row, top], shifted[row, label] = low, high
    other = Seen(seen.student, Activations(ROWS, {LOGITS: shifted}))
    assert loss_of(shift, seen, pair) == close(loss_of(plain, other, pair))
    assert loss_of(shift, seen, pair) != close(loss_of(plain, seen, pair))
    assert shift.reads_labels
    assert not plain.reads_labels
    # Rows of a corpus without labels stay as they are.
    assert loss_of(shift, about_rows(), pair) == close(loss_of(plain, seen, pair))


def test_probability_shift_of_tokens_and_spans():
    shift = made(kind="logits", probability_shift=True)
    gold = torch.full((B, N), -100)
    gold[WORDS] = torch.tensor([1, 2, 3, 0])
    mine, theirs = both()
    shifted = losses.probability_shift(theirs, gold)
    seen = about_tokens(gold=flat(gold), words=flat(WORDS))
    wanted = losses.kl_divergence(mine, shifted, mask=WORDS)
    assert loss_of(shift, seen, with_head("token")) == close(wanted)
    ends = torch.tensor([[4, 0], [2, -100]])
    total = 0.0
    for end in (0, 1):
        mine, theirs = (losses.span_logits(said[..., end], MASK) for said in both(2))
        shifted = losses.probability_shift(theirs, ends[:, end])
        total += losses.kl_divergence(mine, shifted).item()
    assert loss_of(shift, about_tokens(2, gold=ends), with_head(*SPAN)) == close(total)


@pytest.mark.parametrize(
    ("keys", "pair", "message"),
    [
        ({}, heads((None, ()), (SINGLE, "ab")),
         "the student has no logits: give the student a head"),
        ({}, heads((SINGLE, "ab"), (None, ())),
         "the teacher has no logits: use a teacher that was trained for the task"),
        ({}, heads((SINGLE, "ab"), (SINGLE, "ba")),
         f"the student's head ({SINGLE}, 2 classes: a, b) is not the teacher's ({SINGLE}, 2"
         " classes: b, a): use the same head and classes"),
        ({}, heads((SINGLE, "abcdef"), ("token", "abcdefg")),
         f"the student's head ({SINGLE}, 6 classes: a, b, c, d, e, ...) is not the teacher's"
         " (token, 7 classes: a, b, c, d, e, ...): use the same head and classes"),
        ({}, heads((SINGLE, "ab"), (SEVERAL, "ab")),
         f"the student's head ({SINGLE}, 2 classes: a, b) is not the teacher's ({SEVERAL}, 2"
         " classes: a, b): use the same head and classes"),
        ({}, heads(NUMBER, NUMBER), "a regression has no classes: use loss: mse"),
        ({"loss": "reverse_kl"}, heads((SEVERAL, "ab"), (SEVERAL, "ab")),
         "several labels at a time: use loss: kl or mse"),
        ({"loss": "jensen_shannon"}, heads((SEVERAL, "ab"), (SEVERAL, "ab")),
         "several labels at a time: use loss: kl or mse"),
        ({"probability_shift": True}, heads((SEVERAL, "ab"), (SEVERAL, "ab")),
         "probability_shift is about the one right class of a row, the student's head is"
         f" {SEVERAL}: leave it out"),
        ({"probability_shift": True, "loss": "mse"}, heads(NUMBER, NUMBER),
         "probability_shift is about the one right class of a row, the student's head is"
         " regression: leave it out"),
    ],
)  # fmt: skip
def test_logits_that_cannot_be_compared(keys, pair, message):
    assert refused(made(kind="logits", **keys), pair) == f"objective 'logits': {message}"


def test_a_temperature_that_depends_on_logits_is_not_for_mse():
    with pytest.raises(ValidationError, match="loss 'mse' takes a number as temperature"):
        made(kind="logits", loss="mse", temperature={"kind": "flsw"})
    assert made(kind="logits", temperature=2).model_dump()["temperature"] == 2.0


def test_one_cache_or_several():
    with pytest.raises(ValidationError) as caught:
        made(kind="logits", average={"one": 1.0, "other": 2.0}, cache="one")
    (error,) = caught.value.errors()
    assert error["msg"] == "Value error, key 'average' names its caches: take out 'cache'"
    assert made(kind="logits", average={"one": 1.0, "other": 2.0}).averaged.keys() == {
        "one",
        "other",
    }
    assert made(kind="logits", cache="one").averaged == {}
