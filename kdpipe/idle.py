"""Weights that no objective reaches, so that they learn nothing: found out, and said in a line."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from kdpipe.run import Step
from kdpipe.schedule import at
from kdpipe.terms import Term

_SHOWN = 3


class Idle:
    """Watches gradients from the first step on, until every objective has given some.

    It says nothing of objectives whose weight begins at 0: what they reach is seen too late.
    """

    def __init__(self, modules: nn.Module, terms: Iterable[Term]) -> None:
        learning = {name: p for name, p in modules.named_parameters() if p.requires_grad}
        begin = [at(term.objective.weight, 0.0) for term in terms]
        self._weights, self._idle = [*learning], {*learning}
        self._objectives, self._heard = len(begin), set[str]()
        self._hooks = [
            p.register_post_accumulate_grad_hook(lambda _, name=name: self._idle.discard(name))
            for name, p in learning.items()
            if all(begin)
        ]

    def note(self, step: Step) -> str | None:
        """What there is to say after a step: a line, once, where some weights learn nothing."""
        self._heard |= step.losses.keys()
        if not self._hooks or len(self._heard) < self._objectives:
            return None
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if not self._idle:
            return None
        wholes = list(dict.fromkeys(self._whole(n) for n in self._weights if n in self._idle))
        named = ", ".join([*wholes[:_SHOWN], *(["..."] if wholes[_SHOWN:] else [])])
        return (
            f"note: {len(self._idle)} of {len(self._weights)} weights learn nothing from these"
            f" objectives: {named}; add an objective, or train on from there"
        )

    def _whole(self, name: str) -> str:
        """The largest module around a weight in which all are idle, as `encoder.layer.2.*`."""
        parts = name.split(".")
        for depth in range(1, len(parts)):
            around = ".".join(parts[:depth]) + "."
            if all(other in self._idle for other in self._weights if other.startswith(around)):
                return _told(around) + "*"
        return _told(name)


def _told(name: str) -> str:
    """As the model itself calls it."""
    return name.replace("student.model.", "", 1)
