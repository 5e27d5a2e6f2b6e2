"""Schedules: constants, points, jumps."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from kdpipe.schedule import Schedule, at


@pytest.mark.parametrize(
    ("schedule", "progress", "value"),
    [
        (0.5, 0.3, 0.5),
        (((0.0, 1.0), (1.0, 0.0)), 0.25, 0.75),
        (((0.0, 1.0), (0.5, 1.0), (0.5, 0.0)), 0.49, 1.0),
        (((0.0, 1.0), (0.5, 1.0), (0.5, 0.0)), 0.5, 0.0),
        (((0.2, 3.0), (0.4, 5.0)), 0.0, 3.0),
        (((0.2, 3.0), (0.4, 5.0)), 0.3, 4.0),
        (((0.2, 3.0), (0.4, 5.0)), 1.0, 5.0),
    ],
)
def test_value(schedule, progress, value):
    assert at(schedule, progress) == pytest.approx(value)


@pytest.mark.parametrize(
    "wrong", [[], [[0.5, 1], [0.2, 1]], [[0, 1], [1.5, 1]], float("nan"), "up"]
)
def test_what_is_no_schedule_is_refused(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(Schedule).validate_python(wrong)
