"""Losses between attention scores, against published values and nested loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from kdpipe import losses
from kdpipe.errors import UsageError
from kdpipe.losses import layer_map
from tests.oracles import CLOSE, MASK, B, D, H, N, gen, lengthened

S, T = gen(5, (B, H, N, N)), gen(6, (B, H, N, N))
REAL = (5, 3)
ADDED = (~MASK)[:, None, None, :] * -10_000.0
STUDENT = [gen(20 + layer, (B, H, N, N)) + ADDED for layer in range(2)]
TEACHER = [gen(40 + layer, (B, H, N, N)) + ADDED for layer in range(6)]
HIDDEN_S = [gen(60 + layer, (B, N, 24)) for layer in range(3)]
HIDDEN_T = [gen(80 + layer, (B, N, 24)) for layer in range(7)]


@pytest.mark.parametrize(
    ("loss", "without", "masked"),
    [
        (losses.attention_mse, 1.268519197099, 3.507365308029),
        (losses.attention_mse_sum, 4.180876121102, 10.650764718050),
        (losses.attention_ce, 1.742335802825, 1.714235214297),
        (losses.attention_ce_mean, 1.232750224897, 1.463753192765),
    ],
)
def test_textbrewer(loss, without, masked):
    assert loss(S, T, zero_below=-1e-3).item() == pytest.approx(without, abs=CLOSE)
    options = {"softmax_over": "all"} if "_ce" in loss.__name__ else {}
    assert loss(S, T, mask=MASK, **options).item() == pytest.approx(masked, abs=CLOSE)


def test_tinybert_scores():
    pairs = layer_map.tinybert(6, 2)
    total = sum(
        losses.attention_mse(
            STUDENT[mine - 1], TEACHER[theirs - 1], zero_below=-100.0, reduction="all"
        )
        for mine, theirs in pairs.items()
        if mine
    )
    assert total.item() == pytest.approx(6.278589485258, abs=CLOSE)


def test_keras_tinybert():
    """Its pre-training sums the embeddings, scores and states; fine-tuning adds the logits."""
    total = losses.hidden_mse(HIDDEN_S[0], HIDDEN_T[0])
    for mine, theirs in layer_map.uniform(6, 2).items():
        total = total + losses.attention_mse(STUDENT[mine - 1], TEACHER[theirs - 1])
        total = total + losses.hidden_mse(HIDDEN_S[mine], HIDDEN_T[theirs])
    assert total.item() == pytest.approx(19.989263889553, abs=CLOSE)
    logits = losses.soft_cross_entropy(gen(3, (2, 7), 2), gen(4, (2, 7), 2))
    total = total + 2 * logits  # it sums over the 2 rows
    assert total.item() == pytest.approx(30.394423339683, abs=CLOSE)


def test_scores_of_heads():
    queries, keys = gen(1, (B, N, 12)), gen(2, (B, N, 12))
    found = losses.scores_of(queries, keys, H)
    assert found.shape == (B, H, N, N)
    for b, h, i, j in torch.ones(B, H, N, N).nonzero().tolist():
        mine, theirs = queries[b, i, h * 4 : h * 4 + 4], keys[b, j, h * 4 : h * 4 + 4]
        assert found[b, h, i, j].item() == pytest.approx(mine.dot(theirs).item() / 2, abs=1e-12)
    with pytest.raises(UsageError) as error:
        losses.scores_of(queries, keys, 5)
    assert str(error.value) == (
        "a width of 12 does not divide into 5 heads: choose a divisor of 12"
    )


def over_rows(rows: list[list[float]], reduction: str) -> float:
    if reduction == "sequence":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    return sum(map(sum, rows)) / sum(map(len, rows))


@pytest.mark.parametrize("reduction", ["token", "sequence", "all"])
@pytest.mark.parametrize("summed", [False, True])
def test_squared_errors_against_loops(summed, reduction):
    rows = []
    for b in range(B):
        real = N if reduction == "all" else REAL[b]
        rows.append([])
        for i in range(real):
            for j in range(real):
                errors = (S[b, :, i, j] - T[b, :, i, j]).tolist()
                if summed:
                    rows[-1].append(sum(errors) ** 2)
                else:
                    rows[-1].append(sum(error**2 for error in errors) / H)
    loss = losses.attention_mse_sum if summed else losses.attention_mse
    found = loss(S, T, mask=MASK, reduction=reduction)
    assert found.item() == pytest.approx(over_rows(rows, reduction), abs=1e-12)


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(x) for x in scores]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("reduction", ["token", "sequence", "all"])
@pytest.mark.parametrize("mean", [False, True])
def test_cross_entropies_over_real_keys_against_loops(mean, reduction):
    student, teacher = (x.mean(1, keepdim=True) if mean else x for x in (S, T))
    heads, rows = student.shape[1], []
    for b in range(B):
        rows.append([])
        for i in range(N if reduction == "all" else REAL[b]):
            values = []
            for h in range(heads):
                q, p = (softmax(x[b, h, i, : REAL[b]].tolist()) for x in (student, teacher))
                values.append(-sum(x * math.log(y) for x, y in zip(p, q, strict=True)))
            rows[-1].append(sum(values) / heads)
    loss = losses.attention_ce_mean if mean else losses.attention_ce
    found = loss(S, T, mask=MASK, reduction=reduction)
    assert found.item() == pytest.approx(over_rows(rows, reduction), abs=1e-12)


def test_heads_that_are_added_or_averaged_may_differ_in_number():
    more = gen(9, (B, 5, N, N))
    for loss, one in (
        (losses.attention_mse_sum, more.sum(1)),
        (losses.attention_ce_mean, more.mean(1)),
    ):
        assert torch.equal(loss(more, T, mask=MASK), loss(one, T, mask=MASK))
    with pytest.raises(UsageError, match="needs equal shapes"):
        losses.attention_mse(more, T)
    with pytest.raises(UsageError, match=r"of shape \[2, 4\], the loss is about places \[2, 5\]"):
        losses.attention_ce(S, T, mask=MASK[:, :4])
    with pytest.raises(UsageError, match=r"of shape \[2, 1\], the loss is about places \[2, 5\]"):
        losses.attention_mse(S, T, mask=MASK[:, :1])


@pytest.mark.parametrize("reduction", ["token", "sequence", "all"])
def test_scores_of_minus_infinity_at_padded_keys(reduction):
    student, teacher = (x.masked_fill(~MASK[:, None, None], -math.inf) for x in (S, T))
    student.requires_grad_()
    for loss in (
        losses.attention_mse,
        losses.attention_mse_sum,
        losses.attention_ce,
        losses.attention_ce_mean,
    ):
        value = loss(student, teacher, mask=MASK, reduction=reduction)
        value.backward()
        if reduction != "all":
            expected = loss(S, T, mask=MASK, reduction=reduction).item()
            assert value.item() == pytest.approx(expected, abs=1e-12)
        assert value.isfinite()
        assert student.grad.isfinite().all()


def test_textbrewers_softmax_depends_on_padding_and_ours_does_not():
    student, teacher = (lengthened(x, 3.0, 2, 3) for x in (S, T))
    mask = lengthened(MASK, 0, 1)
    for loss in (losses.attention_ce, losses.attention_ce_mean):
        assert loss(student, teacher, mask=mask).item() == pytest.approx(
            loss(S, T, mask=MASK).item(), abs=1e-12
        )
        longer = loss(student, teacher, mask=mask, softmax_over="all").item()
        assert abs(longer - loss(S, T, mask=MASK, softmax_over="all").item()) > 0.1


@pytest.mark.parametrize("reduction", ["token", "sequence", "all"])
def test_gradient_is_the_derivative(reduction):
    student = gen(3, (B, N, D)).requires_grad_()
    options = {"mask": MASK, "reduction": reduction}
    for loss in (
        losses.attention_mse,
        losses.attention_mse_sum,
        losses.attention_ce,
        losses.attention_ce_mean,
    ):
        assert torch.autograd.gradcheck(
            lambda x, f=loss: f(losses.scores_of(x, x, 2), T[:, :2], **options), (student,)
        )
