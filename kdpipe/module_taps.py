"""Taps at modules of a model that are told by name: what each gives for a token, as it gives it.

Legend: B rows, T longest row, N real tokens, D width of what a module gives.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from kdpipe.errors import UsageError
from kdpipe.parts import Needs
from kdpipe.progress import counted


@dataclass
class _Sink:
    """What one forward pass wants and has got."""

    wanted: set[str]
    mask: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)


# A variable of its own in each thread: several passes may go through one model at a time.
_SINK: ContextVar[_Sink | None] = ContextVar("sink", default=None)
_INSTALLING = threading.Lock()


@contextmanager
def modules_tapped(model: nn.Module, wanted: Needs, mask: Tensor) -> Iterator[dict[str, Tensor]]:
    """While it lasts, a forward pass of rows with `mask [B, T]` fills the mapping with `[N, D]`.

    Its keys are the names of the modules that parts of `wanted` have.

    Of a module that gives several things the first one counts.

    Raises:
        UsageError: a module that is not there, that a pass calls not once, or that does not give
            one vector for each token.
    """
    sink = _Sink({part.module for part in wanted if part.module is not None}, mask)
    if not sink.wanted:
        yield sink.values
        return
    for name in sink.wanted:
        _install(model, name)
    token = _SINK.set(sink)
    try:
        yield sink.values
    finally:
        _SINK.reset(token)
    for name in sink.wanted - sink.values.keys():
        raise UsageError(f"module {name} takes no part in a pass: {_REMEDY}")


_REMEDY = "name one that is called once and gives a vector for each token, or use hidden states"


def _install(model: nn.Module, name: str) -> None:
    found = dict(model.named_modules())
    if not name or name not in found:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise UsageError(f"there is no module {name!r} in a {kind!r} model: {_hint(name, found)}")
    with _INSTALLING:
        module = found[name]
        known = module.__dict__.setdefault("_kdpipe_names", [])
        if name not in known:
            module.register_forward_hook(_hook(name))
            known.append(name)


def _hint(name: str, known: Iterable[str]) -> str:
    """Only the nearest ones: a large model has many hundreds."""
    close = difflib.get_close_matches(name, [*filter(None, known)], n=3, cutoff=0.3)
    if not close:
        return "names are those of its named_modules()"
    return f"did you mean {' or '.join(repr(one) for one in close)}?"


def _hook(name: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        sink = _SINK.get()
        if sink is None or name not in sink.wanted:
            return
        if name in sink.values:
            raise UsageError(f"module {name} is called several times in a pass: {_REMEDY}")
        if isinstance(output, dict):
            output = tuple(output.values())
        if isinstance(output, tuple | list):
            output = output[0] if output else None
        shape = [*output.shape] if isinstance(output, Tensor) else None
        if shape is None or len(shape) != 3 or shape[:2] != [*sink.mask.shape]:
            gives = type(output).__name__ if shape is None else f"the shape {shape}"
            rows, tokens = sink.mask.shape
            read = f"{counted(rows, 'row')} of {counted(tokens, 'token')}"
            raise UsageError(f"module {name} gives {gives} for {read}: {_REMEDY}")
        # Taken at once: a module behind it may change in place what this one gives.
        sink.values[name] = output[sink.mask]

    return hook
