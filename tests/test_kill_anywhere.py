"""Killed at any change of the disk, then run again: the same bytes, and nothing left over."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Figure
from tests.disk import Fault
from tests.trials import (
    BLOCKS,
    NAMES,
    STAGES,
    Scenario,
    answered,
    begin,
    differences,
    end,
    points,
    run,
    wait_until_it_runs,
)

FEW, FEWER = 12, 6
"""Points of a stage, and of a stage that runs again after something has changed."""
PAIRS, FEW_PAIRS = 300, 6
TIMES, FEW_TIMES = {signal.SIGKILL: 200, signal.SIGTERM: 50, signal.SIGINT: 50}, 1
"""Signals to each stage."""
CODES = {
    signal.SIGKILL: {-9, 0},
    # Before the program has begun there is no handler.
    signal.SIGTERM: {143, 0, -15},
    signal.SIGINT: {130, 0},
}


def goes_on(scenario: Scenario, folder: Path, about: str) -> None:
    """The same command ends as if nothing had happened."""
    whole, begun = answered(folder)
    ended = run(scenario.words, folder)
    assert ended.code == 0, f"{about}\n{ended.shown}"
    other = differences(folder, scenario.after)
    assert not other, f"{about}: {other}"
    if scenario.name == "cache-teacher" and "up to date" not in ended.shown:
        assert f" {BLOCKS} blocks, {BLOCKS - whole} of them new: " in ended.shown, about
        assert begun - whole <= 1, about
    shutil.rmtree(folder)


def die(scenario: Scenario, folder: Path, fault: Fault) -> bool:
    """Run into a fault; whether it came before the end."""
    ended = run(scenario.words, folder, fault)
    assert ended.code in {-signal.SIGKILL, 0}, f"{scenario.name}, {fault}\n{ended.shown}"
    return ended.code != 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(3600)
def test_killed_before_or_after_any_call(
    scenarios: dict[str, Scenario], spot: Path, name: str, long: bool, figure: Figure
) -> None:
    scenario = scenarios[name]
    calls = len(scenario.record.calls)
    chosen = points(2 * calls, None if long else FEW if name in STAGES else FEWER, seed=calls)
    for point in chosen:
        fault = Fault(point // 2, ("before", "after")[point % 2])
        folder = scenario.again(spot / "here")
        assert die(scenario, folder, fault)
        goes_on(scenario, folder, f"{name}, {fault}: {scenario.record.calls[fault.at]}")
    figure(f"{name}: killed at {len(chosen):,} of {2 * calls:,} points, all went on")


@pytest.mark.timeout(3600)
def test_killed_again_as_it_goes_on(
    scenarios: dict[str, Scenario], spot: Path, long: bool, figure: Figure
) -> None:
    draw, both = random.Random(3), 0
    pairs = PAIRS if long else FEW_PAIRS
    for number in range(pairs):
        scenario = scenarios[NAMES[number % len(NAMES)]]
        folder = scenario.again(spot / "here")
        faults = []
        for _ in range(2):
            at = draw.randrange(len(scenario.record.calls))
            faults.append(Fault(at, draw.choice(["before", "after"])))
        both += sum(die(scenario, folder, fault) for fault in faults) == len(faults)
        goes_on(scenario, folder, f"{scenario.name}, {faults[0]}, then {faults[1]}")
    assert both > pairs // 4
    figure(f"{both} of {pairs} runs killed, and again as they went on: all went on")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", TIMES, ids=lambda number: number.name)
@pytest.mark.parametrize("name", STAGES)
def test_signal_at_any_time(
    scenarios: dict[str, Scenario],
    spot: Path,
    name: str,
    number: signal.Signals,
    long: bool,
    figure: Figure,
) -> None:
    scenario, draw = scenarios[name], random.Random(f"{name} {number}")
    stopped, slowest, times = 0, 0.0, TIMES[number] if long else FEW_TIMES
    for trial in range(times):
        folder, wait = scenario.again(spot / "here"), draw.uniform(0, scenario.seconds)
        process = begin(scenario.words, folder)
        assert process.pid is not None
        wait_until_it_runs(process, folder)
        time.sleep(wait)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        sent = time.monotonic()
        ended = end(process, folder)
        slowest = max(slowest, time.monotonic() - sent)
        about = f"trial {trial}, {number.name} after {wait:.3f} s"
        assert ended.code in CODES[number], f"{about}\n{ended.shown}"
        assert "Traceback" not in ended.shown, f"{about}\n{ended.shown}"
        stopped += ended.code != 0
        goes_on(scenario, folder, about)
    assert slowest < 10.0
    assert stopped > times // 4 or not long
    figure(f"{name}: {stopped} of {times} runs ended by {number.name} at any time: all went on")


def test_names_of_calls_tell_what_is_killed(scenarios: dict[str, Scenario]) -> None:
    # Were a change of the disk to go another way, the trials would not know of it.
    calls = " ".join(call for made in scenarios.values() for call in made.record.calls)
    every = {"create", "write", "fsync", "close", "link", "replace", "unlink", "mkdir", "rmdir"}
    assert {*re.findall(r"\b[a-z]+(?= )", calls)} >= every
