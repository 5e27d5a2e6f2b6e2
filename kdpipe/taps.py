"""Taps at the attention projections of a model: queries, keys and values as they are computed.

Taken where the projections end, so it does not matter how attention goes on (SDPA, flash, eager).
A family is a row: the ends of the names of its projections. Layers are counted by calls, so a
family that shares one layer's weights among all (ALBERT) needs nothing special.
Legend: B rows, T longest row, D all heads side by side.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from kdpipe.config import nearest
from kdpipe.errors import UsageError
from kdpipe.parts import Needs, Part, PartName

_BERT = ("attention.self.query", "attention.self.key", "attention.self.value")
PROJECTIONS: dict[str, tuple[str, ...]] = {
    "albert": ("attention.query", "attention.key", "attention.value"),
    "bert": _BERT,
    "camembert": _BERT,
    "deberta-v2": tuple(f"{name}_proj" for name in _BERT),
    "distilbert": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "electra": _BERT,
    "kdpipe-attention": ("query", "key", "value"),
    "mobilebert": _BERT,
    "modernbert": ("attn.Wqkv",),
    "mpnet": ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    "roberta": _BERT,
    "xlm-roberta": _BERT,
}
"""Model type -> names of the projections; one name where all three are a single one."""
RELATIVE = frozenset({"deberta-v2", "modernbert", "mpnet"})
"""Families whose attention also depends on positions between projections and scores."""
_THREE: tuple[PartName, ...] = ("query", "key", "value")


@dataclass
class _Sink:
    """What one forward pass wants and has got."""

    wanted: Needs
    calls: Counter[str] = field(default_factory=Counter)
    values: dict[Part, Tensor] = field(default_factory=dict)


# A variable of its own in each thread: several passes may go through one model at a time.
_SINK: ContextVar[_Sink | None] = ContextVar("sink", default=None)
_INSTALLING = threading.Lock()


@contextmanager
def tapped(model: nn.Module, family: str, wanted: Needs) -> Iterator[dict[Part, Tensor]]:
    """While it lasts, a forward pass fills the yielded mapping with `[B, T, D]` tensors.

    Raises:
        UsageError: a family without a row.
    """
    sink = _Sink(frozenset(part for part in wanted if part.name in _THREE))
    if not sink.wanted:
        yield sink.values
        return
    _install(model, family)
    token = _SINK.set(sink)
    try:
        yield sink.values
    finally:
        _SINK.reset(token)


def _install(model: nn.Module, family: str) -> None:
    ends = PROJECTIONS.get(family)
    if ends is None:
        raise UsageError(
            f"queries, keys and values of a {family!r} model cannot be had:"
            f" {nearest(family, sorted(PROJECTIONS))}; use hidden states in their place"
        )
    with _INSTALLING:
        if getattr(model, "_kdpipe_tapped", False):
            return
        for name, module in model.named_modules():
            for place, end in enumerate(ends):
                if f".{name}".endswith(f".{end}"):
                    parts = _THREE if len(ends) == 1 else (_THREE[place],)
                    module.register_forward_hook(_hook(end, parts))
        vars(model)["_kdpipe_tapped"] = True


def _hook(end: str, parts: tuple[PartName, ...]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        sink = _SINK.get()
        if sink is None:
            return
        sink.calls[end] += 1
        for name, value in zip(parts, output.chunk(len(parts), dim=-1), strict=True):
            part = Part(name, sink.calls[end])
            if part in sink.wanted:
                sink.values[part] = value

    return hook
