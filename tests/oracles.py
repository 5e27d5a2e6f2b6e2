"""Inputs in closed form, for values that the published systems give on them.

Legend: B rows, H heads, N places, D and E widths, C classes. Anyone can rebuild the inputs without
those systems.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

B, H, N, D, E, C = 2, 3, 5, 4, 6, 7
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
LENGTHS = torch.tensor([5, 3])
CLOSE = 1e-9
"""How near a value must be; they are known to 12 digits after the point."""


def gen(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """Element i, row by row from 0, is 2 scale sin((i + 1) (i + seed)), in float64."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (2.0 * scale * torch.sin((i + 1) * (i + seed))).reshape(shape)


def flat(values: Tensor) -> Tensor:
    """The real tokens of `[B, N, ...]`, as `[N, ...]`, for `LENGTHS`."""
    return values[MASK]


def lengthened(values: Tensor, filler: float, *axes: int) -> Tensor:
    """The same with two more places of padding on each axis, holding `filler`."""
    for axis in axes:
        shape = list(values.shape)
        shape[axis] = 2
        values = torch.cat([values, torch.full(shape, filler).to(values.dtype)], axis)
    return values
