"""What a plan says follows from what was measured: beside a count of every second."""

from __future__ import annotations

import itertools
import math

import pytest

from kdpipe.forecast import (
    CacheForecast,
    StudentForecast,
    Verdict,
    measurements,
    told,
    verdict,
)


def cache(seconds: float, name: str = "said", blocks: int = 7) -> CacheForecast:
    return CacheForecast(name, blocks, 9, {"embedding.fp16": 10}, seconds, load=2.0)


def student(epochs: float, teacher: float, reading: float, name: str = "s") -> StudentForecast:
    """Of 20 steps an epoch, each of which takes 3 seconds."""
    return StudentForecast(
        name,
        steps=20 * epochs,
        steps_per_epoch=20,
        start=5.0,
        step=3.0,
        measuring=8.0 * epochs,
        in_loop={"said": teacher},
        reading={"said": reading},
    )


def clock(seconds: float) -> str:
    return f"{seconds:g} s"


def test_seconds_of_a_training_are_those_of_its_steps_and_measurements() -> None:
    one = student(4, teacher=2.0, reading=0.5)
    assert one.epochs == 4
    steps = [5.0] + 79 * [3.0]
    assert one.seconds == sum(steps) + 4 * 8.0
    assert one.epoch_seconds == 20 * 3.0 + 8.0
    # With the teacher in the loop each step asks it, and reads nothing.
    assert one.with_teachers == pytest.approx(sum(step + 2.0 - 0.5 for step in steps) + 32.0)
    assert (one.gain("said"), one.gain("other")) == (80 * 1.5, 0.0)


def test_a_training_of_one_step_is_its_start() -> None:
    one = StudentForecast("s", 1, 20, start=5.0, step=3.0, measuring=1.0)
    assert (one.seconds, one.with_teachers) == (6.0, 6.0)


@pytest.mark.parametrize(
    ("making", "teacher", "reading"), [(45.0, 2.0, 0.5), (29.0, 2.0, 0.5), (100.0, 1.0, 0.25)]
)
def test_a_cache_pays_from_the_epoch_on_in_which_all_seconds_are_fewer(
    making: float, teacher: float, reading: float
) -> None:
    def costs(epochs: int) -> tuple[float, float]:
        return making + 20 * epochs * reading, 20 * epochs * teacher

    first = next(n for n in itertools.count(1) if costs(n)[0] < costs(n)[1])
    for epochs in range(1, 12):
        found = verdict(cache(making), [student(epochs, teacher, reading)])
        assert found is not None
        assert found.pays == (epochs >= first)
        assert math.floor(found.after) + 1 == first
        from_cache, in_loop = costs(epochs)
        assert found.saved == pytest.approx(in_loop - from_cache)
        # As many students of so many epochs each: the first number that pays, and no fewer.
        needed = next(n for n in itertools.count(1) if costs(n * epochs)[0] < costs(n * epochs)[1])
        assert found.students_needed == needed


def test_one_epoch_that_costs_as_much_as_the_pass_does_not_pay() -> None:
    found = verdict(cache(40.0), [student(1, teacher=2.0, reading=0.0)])
    assert found == Verdict(epochs=1, students=1, after=1.0, saved=0.0)
    assert not found.pays
    line = "do not cache: it pays after 1 epoch (2 students), students have 1 epoch"
    assert told(cache(40.0), found, clock) == line


def test_epochs_of_all_students_count_each_at_its_own_price() -> None:
    # 2 epochs in which 20 * 1.5 s are saved, and 3 in which 20 * 0.5 s are.
    some = [
        student(2, 2.0, 0.5, "a"),
        student(3, 1.0, 0.5, "b"),
        StudentForecast("c", 9, 9, 1, 1, 1),
    ]
    found = verdict(cache(45.0), some)
    assert found == Verdict(epochs=5, students=2, after=2.5, saved=45.0)
    assert told(cache(45.0), found, clock) == (
        "pays after 2.5 epochs (2 students); in 5 epochs it saves 45 s"
    )


def test_a_cache_that_is_slower_than_its_teacher_never_pays() -> None:
    found = verdict(cache(1.0), [student(100, teacher=0.5, reading=0.5)])
    assert found is not None
    assert (found.after, found.pays) == (math.inf, False)
    assert told(cache(1.0), found, clock) == (
        "do not cache: to read it takes longer than to ask the teacher"
    )


def test_what_is_there_costs_nothing() -> None:
    there = cache(0.0, blocks=0)
    assert (there.whole_seconds, cache(40.0).whole_seconds) == (0.0, 42.0)
    found = verdict(there, [student(2, 2.0, 0.5)])
    assert told(there, found, clock) == "is there; saves 60 s in 2 epochs"


def test_a_cache_without_students_or_without_a_teacher_has_no_break_even() -> None:
    assert verdict(cache(1.0, "other"), [student(1, 2.0, 0.5)]) is None
    assert told(cache(1.0, "other"), None, clock) == "no student learns from it"
    files = CacheForecast("said", 1, 1, {}, 0.0, teacher=False)
    assert told(files, None, clock) == "files give it, no teacher is run"


@pytest.mark.parametrize("steps", [1, 9, 10, 11, 40])
def test_measurements_are_counted_as_training_makes_them(steps: int) -> None:
    for every in (1, 3, 10, 50):
        made = sum(number % every == 0 or number == steps for number in range(1, steps + 1))
        assert measurements(steps, every) == made
    # Of a sample: as many steps as epochs have.
    assert measurements(3 * 7.7, 7.7) == 3
