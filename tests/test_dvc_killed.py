"""A stage killed under `dvc repro`, alone or with all of it, or DVC alone: then the same bytes."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.conftest import Figure
from tests.disk import Fault
from tests.trials import BLOCKS, Scenario, answered, differences, end
from tests.under_dvc import TARGETS, Done, Dvc

POINTS, FEW_POINTS = 20, 2
"""Of a stage."""
PAIRS, FEW_PAIRS = 30, 2
ORPHANS = 2
"""Of each stage."""


def evenly(count: int, wanted: int, draw: random.Random) -> list[int]:
    """One place of each of `wanted` equal parts of `count`."""
    borders = [part * count // wanted for part in range(wanted + 1)]
    return [draw.randrange(*pair) for pair in itertools.pairwise(borders)]


def die(dvc: Dvc, scenario: Scenario, trial: Path, fault: Fault, *, machine: bool) -> bool:
    """Run into a fault; whether it came before the end."""
    done = dvc.repro(trial, *scenario.words, fault=fault, machine=machine)
    codes = [ended.code for ended in done.stages]
    if codes not in ([-signal.SIGKILL], [0], []):
        pytest.fail(f"{scenario.name}, {fault}\n{done.told}")
    if codes != [-signal.SIGKILL]:
        assert done.code == 0, done.told
        return False
    assert done.code == (-signal.SIGKILL if machine else 255), done.told
    assert machine or f"failed to reproduce '{scenario.words[0]}'" in done.told, done.told
    return True


def goes_on(dvc: Dvc, scenario: Scenario, trial: Path, about: str) -> Done:
    """The same command ends as if nothing had happened."""
    whole, begun = answered(trial)
    done = dvc.repro(trial, *scenario.words)
    assert done.code == 0, f"{about}\n{done.told}"
    other = differences(trial, scenario.after)
    assert not other, f"{about}: {other}\n{done.told}"
    if scenario.name == "cache-teacher" and done.stages and "up to date" not in done.told:
        assert f" {BLOCKS} blocks, {BLOCKS - whole} of them new: " in done.told, about
        assert begun - whole <= 1, about
    shutil.rmtree(trial)
    return done


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.timeout(3600)
def test_killed_before_or_after_a_call(
    under_dvc: dict[str, Scenario], dvc: Dvc, trial: Path, name: str, long: bool, figure: Figure
) -> None:
    scenario, draw = under_dvc[name], random.Random(name)
    calls = scenario.record.calls
    chosen = evenly(2 * len(calls), POINTS if long else FEW_POINTS, draw)
    for number, point in enumerate(chosen):
        fault, machine = Fault(point // 2, ("before", "after")[point % 2]), number % 2 == 0
        about = f"{name}, {fault}, {'all' if machine else 'alone'}: {calls[fault.at]}"
        assert die(dvc, scenario, scenario.again(trial), fault, machine=machine), about
        goes_on(dvc, scenario, trial, about)
    figure(
        f"{name}: killed at {len(chosen)} of {2 * len(calls):,} points, every second time with DVC:"
        " all went on"
    )


@pytest.mark.timeout(3600)
def test_killed_again_as_it_goes_on(
    under_dvc: dict[str, Scenario], dvc: Dvc, trial: Path, long: bool, figure: Figure
) -> None:
    draw, both = random.Random(3), 0
    pairs = PAIRS if long else FEW_PAIRS
    for number in range(pairs):
        scenario = draw.choice([*under_dvc.values()])
        calls, faults = scenario.record.calls, list[Fault]()
        # The second time less is left to do, so that a late call may not come.
        for latest in (len(calls), len(calls) // 2):
            faults.append(Fault(draw.randrange(latest), draw.choice(["before", "after"])))
        about = f"{scenario.name}, {faults[0]}, then {faults[1]}"
        scenario.again(trial)
        died = [die(dvc, scenario, trial, fault, machine=number % 2 == 0) for fault in faults]
        goes_on(dvc, scenario, trial, about)
        both += all(died)
    assert both > pairs // 4
    figure(f"{both} of {pairs} runs of dvc repro killed, and again as they went on: all went on")


@pytest.mark.timeout(3600)
def test_only_dvc_is_killed(
    under_dvc: dict[str, Scenario], dvc: Dvc, trial: Path, long: bool, figure: Figure
) -> None:
    draw = random.Random(4)
    names = [*TARGETS] * ORPHANS if long else ["cache-teacher"]
    for name in names:
        scenario = under_dvc[name]
        calls = scenario.record.calls
        owned = next(at for at, call in enumerate(calls) if call.startswith("pwrite .kdpipe/locks"))
        fault = Fault(draw.randrange(owned + 1, len(calls) - 1), "stop")
        about = f"{name}, {fault}: {calls[fault.at]}"
        first = dvc.start(scenario.again(trial), *scenario.words)
        asked = dvc.asked(first)
        assert asked is not None, about
        orphan = asked.begin(trial, fault)
        wait_until_it_stops(orphan)
        first.kill()
        first.wait()

        second = dvc.repro(trial, *scenario.words)
        os.kill(orphan.pid, signal.SIGCONT)
        ended = end(orphan, trial)
        (stage,) = second.stages
        assert (second.code, stage.code) == (255, 4), f"{about}\n{second.told}"
        assert f" is being written by process {orphan.pid} on " in second.told, about
        assert all(" .kdpipe/locks/" in call for call in stage.record.calls), about
        assert ended.code == 0, f"{about}\n{ended.shown}"
        asked.answer(ended)
        first.communicate()
        goes_on(dvc, scenario, trial, about)
    figure(f"{len(names)} times dvc alone: the second waited for the first's stage, then went on")


def wait_until_it_stops(process: ForkServerProcess) -> None:
    """Until it has sent itself SIGSTOP."""
    words = ["ps", "-o", "stat=", "-p", str(process.pid)]
    while not subprocess.check_output(words, text=True).startswith("T"):
        assert process.is_alive()
        time.sleep(0.01)
