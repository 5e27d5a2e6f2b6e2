"""Two processes at one artifact, or one that reads it all the time: no mixture, no half of it."""

from __future__ import annotations

import platform
import random
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import Figure
from tests.trials import NAMES, STAGES, Scenario, begin, differences, end

PAIRS, FEW_PAIRS = 100, 3
KINDS = {"tokenize": "corpora/text", "cache-teacher": "caches/said", "train": "students/small"}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.timeout(3600)
def test_two_at_once(
    scenarios: dict[str, Scenario], spot: Path, stage: str, long: bool, figure: Figure
) -> None:
    scenario, draw, locked, slowest = scenarios[stage], random.Random(len(stage)), 0, 0.0
    pairs = PAIRS if long else FEW_PAIRS
    for number in range(pairs):
        folder, offset = scenario.again(spot / "here"), draw.uniform(0, 0.05)
        about = f"{stage}, pair {number}, {offset:.3f} s apart"
        processes = [begin(scenario.words, folder)]
        time.sleep(offset)
        start = time.monotonic()
        processes.append(begin(scenario.words, folder))
        owners = {4: [process.pid for process in processes]}
        ends = [end(process, folder) for process in processes]
        codes = sorted(ended.code for ended in ends)
        assert codes in ([0, 0], [0, 4]), f"{about}\n{[ended.shown for ended in ends]}"
        for ended in ends:
            if ended.code == 4:
                locked += 1
                told = re.search(
                    r"is being written by process (\d+) on (.+) since \d{4}-\d\d-\d\d"
                    r" \d\d:\d\d:\d\d: wait for it to end, or stop it$",
                    ended.shown.strip(),
                )
                assert told is not None, f"{about}\n{ended.shown}"
                assert int(told[1]) in owners[4], about
                assert told[2] == platform.node(), about
        slowest = max(slowest, time.monotonic() - start)
        assert not differences(folder, scenario.after), about
        shutil.rmtree(folder)
    figure(f"{stage}: {pairs} pairs of writers, {locked} were told to wait, all results the same")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(3600)
def test_two_at_once_where_locks_do_not_work(
    scenarios: dict[str, Scenario], spot: Path, name: str, long: bool, figure: Figure
) -> None:
    scenario, draw = scenarios[name], random.Random(len(name))
    pairs = PAIRS if long else FEW_PAIRS
    for number in range(pairs):
        folder, offset = scenario.again(spot / "here"), draw.uniform(0, 0.05)
        about = f"{name}, pair {number}, {offset:.3f} s apart"
        first = begin(scenario.words, folder, locks=False)
        time.sleep(offset)
        second = begin(scenario.words, folder, locks=False)
        for process in (first, second):
            ended = end(process, folder)
            assert ended.code == 0, f"{about}\n{ended.shown}"
        other = differences(folder, scenario.after)
        assert not other, f"{about}: {other}"
        shutil.rmtree(folder)
    figure(f"{name}: {pairs} pairs of writers without locks, all results the same")
