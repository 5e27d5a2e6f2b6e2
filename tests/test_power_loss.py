"""After a power cut at any place: what was done is there, nothing is wrong, and a run goes on."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from kdpipe import artifact, io
from kdpipe.errors import ArtifactError
from kdpipe.store import Store
from tests.conftest import Figure
from tests.power_cut import Cut
from tests.trials import NAMES, Scenario, differences, run

STATES, FEW_STATES = 2000, 150
RERUNS, FEW_RERUNS = 50, 3
KINDS = {
    "texts": "kdpipe.texts",
    "corpora": "kdpipe.corpus",
    "caches": "kdpipe.cache",
    "students": "kdpipe.student",
}


def known(scenario: Scenario) -> dict[str, set[bytes]]:
    """All that a path ever was when something had its name, but for temporary ones."""
    cut, found = Cut(scenario.before), dict[str, set[bytes]]()
    cut.play(scenario.record.log)
    for path in scenario.before.rglob("*"):
        if path.is_file():
            found[path.relative_to(scenario.before).as_posix()] = {path.read_bytes()}
    for operation, *about in scenario.record.log:
        if operation == "names":
            for name, key in about[1].items():
                if isinstance(key, int):
                    found.setdefault(f"{about[0]}/{name}", set()).add(cut.content(key))
    return found


def wrong(folder: Path, scenario: Scenario, whole: dict[str, set[bytes]]) -> list[str]:
    """Files that look finished and are not what they were when they got their names."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        final = path.is_file() and not path.name.startswith(io.TEMPORARY)
        locks = name.startswith((".kdpipe/locks/", ".kdpipe/store/lock"))
        if final and not locks and path.read_bytes() not in whole[name]:
            found.append(f"{name} is torn")
    for path in sorted(folder.glob("artifacts/*/*/manifest.json")):
        manifest, _ = artifact.open_finished(path.parent, KINDS[path.parent.parent.name], "")
        for part in manifest.files:
            there = path.parent / part.name
            try:
                artifact.check(path.parent, part, "")
            except ArtifactError as error:
                # A size is looked at before every run, a digest by who reads all of it.
                same_size = there.is_file() and there.stat().st_size == part.bytes
                if same_size and not _was_so(there, folder, scenario):
                    found.append(f"{error}")
    return found + _wrong_in_store(folder, scenario)


def _wrong_in_store(folder: Path, scenario: Scenario) -> list[str]:
    store, found = Store(folder / ".kdpipe/store"), []
    for path in sorted(store.root.glob("??/*.safetensors")):
        name = path.relative_to(folder)
        right = (scenario.after / name).read_bytes() == path.read_bytes()
        # One without a receipt is no answer, and one that was damaged before has one that tells it.
        counts = store.find(path.stem) is not None
        if counts and not right and not _was_so(path, folder, scenario):
            found.append(f"{name} is taken for an answer")
    return found


def _was_so(path: Path, folder: Path, scenario: Scenario) -> bool:
    before = scenario.before / path.relative_to(folder)
    return before.is_file() and before.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(3600)
def test_power_cut(
    scenarios: dict[str, Scenario], spot: Path, name: str, long: bool, figure: Figure
) -> None:
    scenario, draw = scenarios[name], random.Random(len(name))
    log, whole = scenario.record.log, known(scenarios[name])
    states, reruns = (STATES, RERUNS) if long else (FEW_STATES, FEW_RERUNS)
    acknowledged = 0
    for number in range(states):
        place = draw.randint(0, len(log))
        cut, folder = Cut(scenario.before), spot / "here"
        cut.play(log[:place])
        how = cut.leave(folder, draw)
        about = f"{name}, state {number}, after {place} of {len(log)} operations, {how}"
        for path, key in cut.done.items():
            there = folder / path
            assert there.is_file(), f"{about}: {path} is lost"
            assert there.read_bytes() == cut.content(key), f"{about}: {path}"
        acknowledged += len(cut.done)
        assert not wrong(folder, scenario, whole), about
        if number % (states // reruns) == 0:
            ended = run(scenario.words, folder)
            assert ended.code == 0, f"{about}\n{ended.shown}"
            assert not differences(folder, scenario.after), about
        shutil.rmtree(folder)
    figure(
        f"{name}: {states:,} states after a power cut, {acknowledged:,} finished files looked for,"
        f" none lost, none torn, and {reruns} went on to the same bytes"
    )
