"""Which device computes, and in which number type."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch

from kdpipe.errors import UsageError
from kdpipe.processes import local_rank

Dtype = Literal["fp32", "bf16", "fp16", "int8"]
"""`int8` is for teachers on a CPU."""
TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """`auto`: CUDA, else Apple's MPS, else the CPU; raises UsageError for what is not there.

    Of several processes each takes the GPU of its own number.
    """
    if name == "auto":
        found = "cuda" if torch.cuda.is_available() else None
        name = found or ("mps" if torch.backends.mps.is_available() else "cpu")
    number = local_rank()
    if name == "cuda" and number is not None:
        name = f"cuda:{number}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.index is not None and device.type == "cuda":
            # What libraries put on "the" GPU goes there too.
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(f"device {name!r} is not there: use auto, cpu, cuda or mps") from None
    return device


def pick_dtype(asked: bool | str, device: torch.device) -> Dtype:
    """`auto`: bf16 where the hardware multiplies it natively, else fp32; never fp16 or int8.

    Raises UsageError for int8 where the CPU is not what computes, or torch has no products for it.
    """
    if asked in ("fp32", False):
        return "fp32"
    if asked in ("bf16", True):
        return "bf16"
    if asked == "fp16":
        return "fp16"
    if asked == "int8":
        if device.type != "cpu" or "onednn" not in torch.backends.quantized.supported_engines:
            raise UsageError(f"dtype int8 is not there on {device.type}: use auto, bf16 or fp32")
        return "int8"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bf16"
    return "fp32"


def autocast(device: torch.device, dtype: Dtype) -> contextlib.AbstractContextManager[object]:
    """Matrix products in `dtype`, sums and normalisations in fp32."""
    if dtype in {"fp32", "int8"}:
        return contextlib.nullcontext()
    return torch.autocast(device.type, TORCH[dtype])


def pass_overhead(device: torch.device) -> int | None:
    """What a forward pass costs beside its tokens, counted in tokens; None: not known."""
    return 64 if device.type == "cpu" else None
