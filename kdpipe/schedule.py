"""A number that may change with training: a constant, or points joined by straight lines."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, FiniteFloat, NonNegativeFloat

Point = tuple[NonNegativeFloat, FiniteFloat]


def _ordered(points: tuple[Point, ...]) -> tuple[Point, ...]:
    progress = [point[0] for point in points]
    if not points or progress != sorted(progress) or progress[-1] > 1.0:
        raise ValueError("points are [progress, value] with progress rising from 0.0 to 1.0")
    return points


Schedule = FiniteFloat | Annotated[tuple[Point, ...], AfterValidator(_ordered)]
"""`0.5`, or `[[0.0, 1.0], [0.5, 0.0]]`: progress (0 at the start, 1 at the end) and value."""


def at(schedule: Schedule, progress: float) -> float:
    """The value at `progress` in [0, 1]; the last of several points at one progress wins."""
    if isinstance(schedule, int | float):
        return float(schedule)
    before = [point for point in schedule if point[0] <= progress]
    after = [point for point in schedule if point[0] > progress]
    if not before:
        return after[0][1]
    if not after:
        return before[-1][1]
    (left, low), (right, high) = before[-1], after[0]
    return low + (high - low) * (progress - left) / (right - left)
