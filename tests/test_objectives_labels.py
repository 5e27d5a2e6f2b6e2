"""The objective `labels` by hand, pseudo-labels included, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from kdpipe import losses
from kdpipe.objectives.base import Seen
from kdpipe.parts import LOGITS, TOKEN_LOGITS
from tests.oracles import MASK, B, N, flat
from tests.seen import (
    NUMBER,
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


def test_labels_of_rows():
    gold = torch.tensor([0, 3, -100, 1, 2, -100])
    pair, seen = with_head(SINGLE), about_rows(gold=gold)
    known = gold >= 0
    logs = seen.student[LOGITS].log_softmax(-1)[known]
    wanted = -logs.gather(1, gold[known][:, None]).mean()
    objective = made(kind="labels")
    assert loss_of(objective, seen, pair) == close(wanted)
    assert (objective.from_teacher, objective.reads_labels) == (False, True)
    assert objective.needs(pair) == (frozenset({LOGITS}), frozenset())
    nothing = about_rows(gold=torch.full((6,), -100))
    assert loss_of(objective, nothing, pair) == 0.0


def test_labels_of_other_heads():
    objective = made(kind="labels")
    numbers = torch.tensor([0.5, float("nan"), 2.0, float("nan"), -1.0, 0.0]).double()
    seen = about_rows(1, numbers)
    known = ~numbers.isnan()
    wanted = (seen.student[LOGITS][:, 0] - numbers)[known].square().mean()
    assert loss_of(objective, seen, with_head(*NUMBER)) == close(wanted)
    sets = torch.tensor([[0, 1, 1, 0], [0] * 4, [-100] * 4, [1] * 4, [-100] * 4, [0, 0, 0, 1]])
    seen = about_rows(gold=sets.double())
    wanted = losses.binary_cross_entropy(seen.student[LOGITS], sets.double())
    assert loss_of(objective, seen, with_head(SEVERAL)) == close(wanted)
    ends = torch.tensor([[4, 0], [2, -100]])
    logits = both(2)[0]
    start, end = (losses.span_logits(logits[..., which], MASK).log_softmax(-1) for which in (0, 1))
    wanted = (-(start[0, 4] + start[1, 2]) / 2 - end[0, 0]) / 2
    span = with_head(*SPAN)
    assert loss_of(objective, about_tokens(2, ends), span) == close(wanted)
    assert objective.unit(span) == "labels"


def test_labels_of_tokens():
    gold = torch.full((B, N), -100)
    gold[WORDS] = torch.tensor([1, -100, 3, 0])
    seen = about_tokens(gold=flat(gold), words=flat(WORDS))
    wanted = losses.cross_entropy(both()[0], gold, mask=MASK)
    objective = made(kind="labels")
    assert loss_of(objective, seen, with_head("token")) == close(wanted)
    assert objective.needs(with_head("token")) == (frozenset({TOKEN_LOGITS}), frozenset())


def test_pseudo_labels_stand_in_where_the_teacher_is_sure():
    gold = torch.tensor([0, 3, -100, -100, 2, -100])
    seen, pair = about_rows(gold=gold), with_head(SINGLE)
    probabilities = seen.teacher[LOGITS].softmax(-1)
    border = probabilities.amax(-1)[[2, 3, 5]].sort().values[1].item()
    for confidence in (0.0, border, 0.99):
        taken = gold.clone()
        for row in (2, 3, 5):
            if probabilities[row].max() > confidence:
                taken[row] = int(probabilities[row].argmax())
        wanted = losses.cross_entropy(seen.student[LOGITS], taken)
        objective = made(kind="labels", pseudo_labels=True, confidence=confidence)
        assert loss_of(objective, seen, pair) == close(wanted)
    assert objective.needs(pair) == (frozenset({LOGITS}), frozenset({LOGITS}))
    assert objective.from_teacher
    alone = Seen(seen.student, seen.teacher)
    everywhere = losses.cross_entropy(seen.student[LOGITS], probabilities.argmax(-1))
    assert loss_of(made(kind="labels", pseudo_labels=True), alone, pair) == close(everywhere)


def test_pseudo_labels_of_words_stand_at_their_first_tokens():
    gold = torch.full((B, N), -100)
    gold[0, 1] = 3
    mine, theirs = both()
    taken = theirs.argmax(-1).where(WORDS & (gold < 0), gold)
    objective, pair = made(kind="labels", pseudo_labels=True), with_head("token")
    seen = about_tokens(gold=flat(gold), words=flat(WORDS))
    assert loss_of(objective, seen, pair) == close(losses.cross_entropy(mine, taken))
    everywhere = losses.cross_entropy(mine, theirs.argmax(-1), mask=MASK)
    assert loss_of(objective, about_tokens(), pair) == close(everywhere)


@pytest.mark.parametrize(
    ("keys", "pair", "message"),
    [
        ({}, heads((None, ()), (SINGLE, "ab")), "the student has no logits: give it a head"),
        ({"pseudo_labels": True}, heads((SINGLE, "ab"), (None, ())),
         "the teacher has no logits: use a teacher that was trained for the task"),
        ({"pseudo_labels": True}, heads((SINGLE, "ab"), (SINGLE, "ba")),
         f"the student's head ({SINGLE}, 2 classes: a, b) is not the teacher's ({SINGLE}, 2"
         " classes: b, a): use the same head and classes"),
        ({"pseudo_labels": True}, heads(NUMBER, NUMBER),
         "pseudo_labels are classes, the student's head is regression: use kind: logits"),
        ({"pseudo_labels": True}, heads((SEVERAL, "ab"), (SEVERAL, "ab")),
         f"pseudo_labels are classes, the student's head is {SEVERAL}: use kind: logits"),
        ({"pseudo_labels": True}, heads(("span", "ab"), ("span", "ab")),
         "pseudo_labels are classes, the student's head is span: use kind: logits"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_learned(keys, pair, message):
    assert refused(made(kind="labels", **keys), pair) == f"objective 'labels': {message}"


def test_labels_alone_ask_nothing_of_the_teacher():
    made(kind="labels").needs(heads((SINGLE, "ab"), (SINGLE, "ba")))
    with pytest.raises(ValidationError, match="key 'confidence' is about pseudo_labels: set"):
        made(kind="labels", confidence=0.5)
