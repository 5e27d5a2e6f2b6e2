"""What is kept comes back within the stated error."""

from __future__ import annotations

import pytest
import torch

from kdpipe import storage

ERROR = {"fp32": 0.0, "fp16": 1 / 2048, "bf16": 1 / 256}


def values() -> torch.Tensor:
    return torch.randn(50, 16, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16"])
def test_floats_come_back_within_their_precision(kind):
    x = values()
    assert bool(
        ((storage.decode(storage.encode(x, kind)) - x).abs() <= x.abs() * ERROR[kind]).all()
    )


def test_int8_error_is_half_a_step_of_the_rows_own_scale():
    x = values() * torch.logspace(-3, 3, 50)[:, None]
    kept = storage.encode(x, "int8")
    assert kept["values"].dtype == torch.int8
    bound = x.abs().amax(1, keepdim=True) / 254 * (1 + 1e-5)
    assert bool(((storage.decode(kept) - x).abs() <= bound).all())


def test_int8_keeps_a_zero_row():
    assert torch.equal(storage.decode(storage.encode(torch.zeros(2, 4), "int8")), torch.zeros(2, 4))


@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_rows_are_found(kind, bad):
    x = values()
    x[7, 3] = bad
    assert storage.not_finite(storage.encode(x, kind)).nonzero().flatten().tolist() == [7]


def test_overflow_of_fp16_is_found():
    x = values()
    x[3, 0] = 70_000.0
    assert storage.not_finite(storage.encode(x, "fp16")).nonzero().flatten().tolist() == [3]
    assert not bool(storage.not_finite(storage.encode(x, "bf16")).any())


@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16", "int8"])
def test_bytes_are_as_predicted(kind):
    kept = storage.encode(values(), kind)
    size = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    assert size == storage.bytes_of(50, 16, kind)
