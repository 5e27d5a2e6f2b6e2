"""Which layer of the student learns from which layer of the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from kdpipe.errors import UsageError
from kdpipe.objectives.base import LayerMap, Pairing

Layers = LayerMap | Literal["uniform", "last"]
"""Student layer: teacher layer; or `uniform`: every layer of the student, evenly spread over those
of the teacher; or `last`: the last layer of each."""


def chosen(layers: Layers, pair: Pairing, *, first: int) -> dict[int, int]:
    """The map in numbers; `first` is 0 where the output of the embeddings counts as a layer.

    Raises:
        UsageError: a layer that the student or the teacher does not have.
    """
    from kdpipe.losses import layer_map

    mine, theirs = pair.student.layers, pair.teacher.layers
    if isinstance(layers, Mapping):
        _check("student", [*layers], first, mine)
        _check("teacher", [*layers.values()], first, theirs)
        return dict(layers)
    if layers == "last":
        return {mine: theirs}
    return ({0: 0} if first == 0 else {}) | layer_map.uniform(theirs, mine)


def _check(whose: str, layers: list[int], first: int, last: int) -> None:
    for layer in layers:
        if not first <= layer <= last:
            raise UsageError(
                f"an objective names layer {layer} of the {whose}, which has layers {first} to"
                f" {last} to learn from"
            )
