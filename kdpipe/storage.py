"""How vectors are kept: fp32, fp16, bf16, or int8 with one scale for each vector.

Legend: V vectors, D width, K largest of many logits. Values come and go as fp32 `[V, D]`.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from kdpipe.masked_logits import unpacked
from kdpipe.targets import Storage

_FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_TORCH = {**_FLOATS, "int8": torch.int8}


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


def encode_largest(packed: Tensor, storage: Storage) -> dict[str, Tensor]:
    """What `masked_logits.largest` packed, `[V, 2 * K + 1]`: log-probabilities as by `encode`.

    Adds `indices [V, K]` int32 and `log_normalizer [V]` fp32. Log-probabilities, and not logits,
    are rounded, since they are near 0 where they matter most.
    """
    values, indices, log_normalizer = unpacked(packed)
    exact = {"indices": indices.int(), "log_normalizer": log_normalizer.contiguous()}
    return encode(values, storage) | exact


def as_arrays(kept: dict[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    """The same memory for numpy, which has no bf16: its bits."""
    bits = {torch.bfloat16: torch.int16}
    return {name: one.view(bits.get(one.dtype, one.dtype)).numpy() for name, one in kept.items()}


def as_tensors(arrays: dict[str, npt.NDArray[Any]], storage: Storage) -> dict[str, Tensor]:
    """The same memory for torch."""
    kept = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return kept | {"values": kept["values"].view(_TORCH[storage])}


def decode(kept: dict[str, Tensor]) -> Tensor:
    """The `[V, D]` fp32 that `encode` or `encode_largest` was given, within its error."""
    values = kept["values"].float()
    values = values * kept["scale"][:, None] if "scale" in kept else values
    if "indices" not in kept:
        return values
    return torch.cat([values, kept["indices"].float(), kept["log_normalizer"][:, None]], dim=-1)


def not_finite(kept: dict[str, Tensor]) -> Tensor:
    """[V] bool: vectors that are NaN or Inf as they are kept, also for overflow of the type."""
    finite = [tensor.reshape(len(tensor), -1).isfinite().all(1) for tensor in kept.values()]
    return ~torch.stack(finite).all(0)


def bytes_of(vectors: int, width: int, storage: Storage) -> int:
    """Bytes that so many vectors take."""
    if storage == "int8":
        return vectors * (width + 4)
    return vectors * width * _FLOATS[storage].itemsize


def bytes_of_largest(vectors: int, width: int, storage: Storage) -> int:
    """Bytes that so many packed vectors take."""
    return bytes_of(vectors, width // 2, storage) + vectors * 4 * (width // 2 + 1)
