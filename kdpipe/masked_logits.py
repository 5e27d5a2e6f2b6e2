"""Logits over a vocabulary: computed only where they are wanted, and only the largest kept.

A model with such a head is run as it is; between its transformer and its head stands a hook that
leaves the head the wanted places alone. So it does not matter what a family's head is made of.

Legend: B rows, T longest row, M wanted places, V tokens of the vocabulary, K that are kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

# A variable of its own in each thread: several passes may go through one model at a time.
_WANTED: ContextVar[Tensor | None] = ContextVar("wanted", default=None)
_INSTALLING = threading.Lock()


@contextmanager
def head_at(base: nn.Module, wanted: Tensor | None) -> Iterator[None]:
    """While it lasts, the head above `base` sees a single row: the places of `wanted [B, T]`.

    Its logits are `[1, M, V]`. None: the head sees all that `base` says.
    """
    if wanted is not None:
        _install(base)
    token = _WANTED.set(wanted)
    try:
        yield
    finally:
        _WANTED.reset(token)


def largest(logits: Tensor, top_k: int) -> Tensor:
    """The K largest of logits `[M, V]`, packed as `[M, 2 * K + 1]`; K is V at most.

    K log-probabilities, largest first; the K tokens that they are of; and the logsumexp of all V
    logits, which added to the former gives the logits. fp32 holds any token id exactly.
    """
    normalizer = logits.logsumexp(-1, keepdim=True)
    values, tokens = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    return torch.cat([values - normalizer, tokens.to(logits.dtype), normalizer], dim=-1)


def unpacked(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `largest` packed: log-probabilities [M, K], tokens [M, K] int64, normaliser [M]."""
    kept = packed.shape[-1] // 2
    return packed[..., :kept], packed[..., kept:-1].long(), packed[..., -1]


def _install(base: nn.Module) -> None:
    with _INSTALLING:
        if not getattr(base, "_kdpipe_head_at", False):
            base.register_forward_hook(_choose)
            vars(base)["_kdpipe_head_at"] = True


def _choose(module: nn.Module, inputs: Any, output: Any) -> Any:
    wanted = _WANTED.get()
    if wanted is None:
        return None
    return type(output)({**output, "last_hidden_state": output.last_hidden_state[wanted][None]})
