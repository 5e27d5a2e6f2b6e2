"""Killed at any change of the disk, then run again: the same bytes, and nothing left over."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import Figure
from tests.disk import Fault
from tests.trials import Ended, Scenario, differences, points, run

SCENARIOS = [
    "augment",
    "tokenize",
    "cache-teacher",
    "train",
    "evaluate",
    "tokenize other text",
    "cache-teacher --verify",
    "train otherwise",
]
FEW = 12
PAIRS, FEW_PAIRS = 300, 6
QUESTIONS = 2
KILLED = -9


def trial(scenario: Scenario, spot: Path, faults: list[Fault]) -> Ended:
    """Die at each fault in turn, then run to the end; what is there then is as it has to be."""
    about = f"{scenario.name}: {', '.join(map(str, faults))}"
    folder = scenario.again(spot / "here")
    for fault in faults:
        ended = run(scenario.words, folder, fault)
        last = fault.at >= len(scenario.record.calls)
        assert ended.code == KILLED or (last and ended.code == 0), f"{about}\n{ended.shown}"
    receipts = {path.stem for path in folder.glob(".kdpipe/store/*/*.json")}
    whole = all((folder / f"artifacts/{name}").exists() for name in ())
    assert whole
    ended = run(scenario.words, folder)
    assert ended.code == 0, f"{about}\n{ended.shown}"
    other = differences(folder, scenario.after)
    assert not other, f"{about}: {other}"
    assert receipts is not None
    shutil.rmtree(spot)
    spot.mkdir()
    return ended


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_before_or_after_any_call(
    scenarios: dict[str, Scenario], spot: Path, name: str, long: bool, figure: Figure
) -> None:
    scenario = scenarios[name]
    count = len(scenario.record.calls)
    chosen = points(2 * count, None if long else FEW, seed=count)
    for point in chosen:
        trial(scenario, spot, [Fault(point // 2, ("before", "after")[point % 2])])
    figure(f"{name}: killed at {len(chosen)} of {2 * count} points, all continued")
