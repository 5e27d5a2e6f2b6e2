"""Learned maps from the student's width to the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from kdpipe.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

Projection = Literal["linear", "relu", "tanh", "none"]


def projection(kind: Projection, widths: Mapping[str, tuple[int, int]]) -> dict[str, nn.Module]:
    """One map for each name; weights from N(0, 0.02), biases 0, as TextBrewer makes them.

    `widths` are those of the student's states and of the teacher's.

    Raises:
        UsageError: `none` where the widths differ.
    """
    from torch import nn

    made: dict[str, nn.Module] = {}
    for name, (student, teacher) in widths.items():
        if kind == "none":
            if student != teacher:
                raise UsageError(
                    f"projection 'none' needs equal widths, the student has {student} and the"
                    f" teacher {teacher}: use projection: linear"
                )
            continue
        linear = nn.Linear(student, teacher)
        nn.init.normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
        if kind == "linear":
            made[name] = linear
        else:
            made[name] = nn.Sequential(linear, nn.ReLU() if kind == "relu" else nn.Tanh())
    return made
