"""Means over tokens, sequences and all places, against lists of numbers."""

from __future__ import annotations

import math

import pytest
import torch

from kdpipe.errors import UsageError
from kdpipe.losses.reduce import blank, check_same, mean, pairs_of

ROWS = [[1.0, 2.0, 6.0], [10.0], [4.0, 8.0, 0.0, 4.0]]
LENGTHS = torch.tensor([3, 1, 4])
MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
PADDED = torch.zeros(3, 4).masked_scatter(MASK, torch.tensor([x for row in ROWS for x in row]))
FLAT = PADDED[MASK]


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("token", 35.0 / 8), ("sequence", (3.0 + 10.0 + 4.0) / 3), ("all", 35.0 / 12)],
)
def test_padded(reduction, expected):
    assert mean(PADDED, mask=MASK, reduction=reduction).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("token", 35.0 / 8), ("sequence", (3.0 + 10.0 + 4.0) / 3), ("all", 35.0 / 8)],
)
def test_flat(reduction, expected):
    found = mean(FLAT, lengths=LENGTHS, reduction=reduction)
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("reduction", ["token", "sequence", "all"])
def test_without_mask_and_lengths_all_count_the_same(reduction):
    assert mean(PADDED, reduction=reduction).item() == pytest.approx(35.0 / 12, rel=1e-6)
    assert mean(FLAT, reduction=reduction).item() == pytest.approx(35.0 / 8, rel=1e-6)


def test_flat_with_a_mask_of_its_own():
    keep = torch.tensor([1, 0, 1, 0, 0, 1, 0, 0], dtype=torch.bool)
    assert mean(FLAT, mask=keep, lengths=LENGTHS).item() == pytest.approx((1 + 6 + 8) / 3)
    by_row = mean(FLAT, mask=keep, lengths=LENGTHS, reduction="sequence")
    assert by_row.item() == pytest.approx((3.5 + 8.0) / 2)


def test_rows_without_a_token_are_left_out():
    more = torch.cat([PADDED, torch.full((2, 4), 99.0)])
    mask = torch.cat([MASK, torch.zeros(2, 4, dtype=torch.bool)])
    for reduction in ("token", "sequence"):
        expected = mean(PADDED, mask=MASK, reduction=reduction)
        assert torch.equal(mean(more, mask=mask, reduction=reduction), expected)
    lengths = torch.tensor([0, 3, 0, 1, 4, 0])
    found = mean(FLAT, lengths=lengths, reduction="sequence")
    assert torch.equal(found, mean(FLAT, lengths=LENGTHS, reduction="sequence"))


@pytest.mark.parametrize("reduction", ["token", "sequence", "all"])
def test_the_mean_of_nothing_is_0_with_a_gradient(reduction):
    nothing = torch.zeros(0, requires_grad=True)
    found = mean(nothing, lengths=torch.zeros(0, dtype=torch.long), reduction=reduction)
    found.backward()
    assert found.item() == 0.0
    assert nothing.grad.shape == (0,)


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_what_is_masked_may_be_nan_and_gets_no_gradient(reduction):
    values = PADDED.masked_fill(~MASK, math.nan).requires_grad_()
    found = mean(values, mask=MASK, reduction=reduction)
    found.backward()
    assert torch.equal(found, mean(PADDED, mask=MASK, reduction=reduction))
    assert torch.equal(values.grad != 0, MASK)
    assert values.grad.sum().item() == pytest.approx(1.0)


def test_half_types_are_summed_in_float32():
    values = torch.full((4096, 32), 2.0, dtype=torch.float16)  # their sum is beyond float16
    assert mean(values).item() == 2.0
    assert mean(values).dtype == torch.float32
    assert mean(values.double()).dtype == torch.float64


def test_blank_puts_zeros_at_padding_unless_it_counts():
    values = torch.full((3, 4, 2), math.nan)
    assert torch.equal(blank(values, MASK)[~MASK], torch.zeros(4, 2))
    assert blank(values, MASK)[MASK].isnan().all()
    assert blank(values, MASK, "all") is values
    assert blank(values, None) is values


def test_pairs_are_of_two_real_tokens():
    pairs = pairs_of(torch.tensor([[True, False, True]]))
    assert pairs.view(3, 3).tolist() == [[True, False, True], [False] * 3, [True, False, True]]
    assert pairs_of(None) is None


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError) as error:
        mean(PADDED, mask=MASK.long())
    assert str(error.value) == (
        "the mask is torch.int64 of shape [3, 4], the loss is about places [3, 4]: give a"
        " torch.bool mask of that shape"
    )
    with pytest.raises(UsageError, match=r"of shape \[3, 3\], the loss is about places \[3, 4\]"):
        mean(PADDED, mask=MASK[:, :3])
    with pytest.raises(UsageError) as error:
        mean(PADDED, lengths=LENGTHS)
    assert str(error.value) == (
        "lengths belong to flat values [N, D], the loss is about places [3, 4]: give a mask"
    )
    with pytest.raises(UsageError) as error:
        check_same(torch.zeros(2, 3), torch.zeros(1, 3))
    assert str(error.value) == (
        "this loss needs equal shapes, the student has [2, 3] and the teacher [1, 3]: project the"
        " student, or align the tokens first"
    )
