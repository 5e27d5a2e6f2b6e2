"""Killed under `dvc repro`, whose stage, or all of it; then run again: the same bytes."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Figure
from tests.disk import Fault
from tests.trials import BLOCKS, Scenario, answered, differences
from tests.under_dvc import TARGETS, Done, Dvc, scenarios

POINTS, FEW_POINTS = 24, 2
"""Of a stage."""
PAIRS, FEW_PAIRS = 30, 2


@pytest.fixture(scope="module")
def dvc(memory: Path) -> Iterator[Dvc]:
    """DVC, with a folder of its own."""
    (memory / "dvc").mkdir()
    with contextlib.closing(Dvc(memory / "dvc")) as program:
        yield program


@pytest.fixture(scope="module")
def stages(dvc: Dvc) -> dict[str, Scenario]:
    """Every stage, as it ends where nothing goes wrong."""
    return {scenario.name: scenario for scenario in scenarios(dvc.place, dvc)}


@pytest.fixture
def here(dvc: Dvc) -> Iterator[Path]:
    """Where a trial's project is."""
    yield dvc.place / "here"
    shutil.rmtree(dvc.place / "here", ignore_errors=True)


def evenly(count: int, wanted: int, draw: random.Random) -> list[int]:
    """One place of each of `wanted` equal parts of `count`."""
    borders = [part * count // wanted for part in range(wanted + 1)]
    return [draw.randrange(*pair) for pair in itertools.pairwise(borders)]


def die(dvc: Dvc, scenario: Scenario, here: Path, fault: Fault, *, machine: bool) -> bool:
    """Run into a fault; whether it came before the end."""
    done = dvc.repro(here, *scenario.words, fault=fault, machine=machine)
    codes = [ended.code for ended in done.stages]
    if codes not in ([-signal.SIGKILL], [0], []):
        pytest.fail(f"{scenario.name}, {fault}\n{done.told}")
    if codes != [-signal.SIGKILL]:
        assert done.code == 0, done.told
        return False
    assert done.code == (-signal.SIGKILL if machine else 255), done.told
    assert machine or f"failed to reproduce '{scenario.words[0]}'" in done.told, done.told
    return True


def goes_on(dvc: Dvc, scenario: Scenario, here: Path, about: str) -> Done:
    """The same command ends as if nothing had happened."""
    whole, begun = answered(here)
    done = dvc.repro(here, *scenario.words)
    assert done.code == 0, f"{about}\n{done.told}"
    other = differences(here, scenario.after)
    assert not other, f"{about}: {other}\n{done.told}"
    if scenario.name == "cache-teacher" and done.stages and "up to date" not in done.told:
        assert f" {BLOCKS} blocks, {BLOCKS - whole} of them new: " in done.told, about
        assert begun - whole <= 1, about
    shutil.rmtree(here)
    return done


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.timeout(3600)
def test_killed_before_or_after_a_call(
    stages: dict[str, Scenario], dvc: Dvc, here: Path, name: str, long: bool, figure: Figure
) -> None:
    scenario, draw = stages[name], random.Random(name)
    calls = scenario.record.calls
    chosen = evenly(2 * len(calls), POINTS if long else FEW_POINTS, draw)
    for number, point in enumerate(chosen):
        fault, machine = Fault(point // 2, ("before", "after")[point % 2]), number % 2 == 0
        about = f"{name}, {fault}, {'all' if machine else 'alone'}: {calls[fault.at]}"
        assert die(dvc, scenario, scenario.again(here), fault, machine=machine), about
        goes_on(dvc, scenario, here, about)
    figure(
        f"{name}: killed at {len(chosen)} of {2 * len(calls):,} points, every second time with DVC:"
        " all went on"
    )
