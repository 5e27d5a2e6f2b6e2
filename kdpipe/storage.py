"""How vectors are kept: fp32, fp16, bf16, or int8 with one scale for each vector.

Legend: V vectors, D width. Values come and go as fp32 `[V, D]`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdpipe.targets import Storage

_FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def encode(values: Tensor, storage: Storage) -> dict[str, Tensor]:
    """`values [V, D]` in the storage type; int8 adds `scale [V]` fp32.

    Error of a finite value x within range: fp16 |x| / 2048, bf16 |x| / 256, int8 max|row| / 254.
    """
    values = values.contiguous()
    if storage != "int8":
        return {"values": values.to(_FLOATS[storage])}
    scale = values.abs().amax(-1) / 127.0
    steps = values / torch.where(scale > 0, scale, 1.0)[:, None]
    return {"values": steps.round().to(torch.int8), "scale": scale}


def decode(kept: dict[str, Tensor]) -> Tensor:
    """The `[V, D]` fp32 that `encode` was given, within its error."""
    values = kept["values"].float()
    return values * kept["scale"][:, None] if "scale" in kept else values


def not_finite(kept: dict[str, Tensor]) -> Tensor:
    """[V] bool: vectors that are NaN or Inf as they are kept, also for overflow of the type."""
    finite = [tensor.reshape(len(tensor), -1).isfinite().all(1) for tensor in kept.values()]
    return ~torch.stack(finite).all(0)


def bytes_of(vectors: int, width: int, storage: Storage) -> int:
    """Bytes that so many vectors take."""
    if storage == "int8":
        return vectors * (width + 4)
    return vectors * width * _FLOATS[storage].itemsize
