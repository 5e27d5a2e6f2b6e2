"""Two processes at one artifact, or one that reads it all the time: no mixture, no half of it."""

from __future__ import annotations

import fcntl
import os
import platform
import random
import re
import shutil
import time
from pathlib import Path

import pytest

from kdpipe import artifact
from kdpipe.errors import ArtifactError, LockedError
from kdpipe.io import lock
from tests.conftest import Figure
from tests.trials import NAMES, STAGES, Scenario, begin, differences, end, run

PAIRS, FEW_PAIRS = 100, 3
GONE = "was taken away by another process|another process writes in|does not exist"
KINDS = {"tokenize": "corpora/text", "cache-teacher": "caches/said", "train": "students/small"}
AGAIN = {"tokenize": "tokenize other text", "train": "train otherwise"}
FORMATS = {"tokenize": "kdpipe.corpus", "cache-teacher": "kdpipe.cache", "train": "kdpipe.student"}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.timeout(3600)
def test_two_at_once(
    scenarios: dict[str, Scenario], spot: Path, stage: str, long: bool, figure: Figure
) -> None:
    scenario, draw, locked = scenarios[stage], random.Random(len(stage)), 0
    pairs = PAIRS if long else FEW_PAIRS
    for number in range(pairs):
        folder, offset = scenario.again(spot / "here"), draw.uniform(0, 0.05)
        about = f"{stage}, pair {number}, {offset:.3f} s apart"
        processes = [begin(scenario.words, folder)]
        time.sleep(offset)
        processes.append(begin(scenario.words, folder))
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
                assert int(told[1]) == processes[ends[0] is ended].pid, about
                assert told[2] == platform.node(), about
        assert not differences(folder, scenario.after), about
        shutil.rmtree(folder)
    figure(f"{stage}: {pairs} pairs of writers, {locked} were told to wait, all results the same")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(3600)
def test_two_at_once_where_locks_do_not_work(
    scenarios: dict[str, Scenario], spot: Path, name: str, long: bool, figure: Figure
) -> None:
    scenario, draw = scenarios[name], random.Random(len(name))
    pairs, stopped = PAIRS if long else FEW_PAIRS, 0
    for number in range(pairs):
        folder, offset = scenario.again(spot / "here"), draw.uniform(0, 0.05)
        about = f"{name}, pair {number}, {offset:.3f} s apart"
        first = begin(scenario.words, folder, locks=False)
        time.sleep(offset)
        second = begin(scenario.words, folder, locks=False)
        ends = [end(process, folder) for process in (first, second)]
        assert any(ended.code == 0 for ended in ends), about
        for ended in ends:
            # The first to end takes away what is needed only while a stage runs.
            told = ended.shown.strip().splitlines()[-1]
            taken = ended.code in {3, 4} and re.search(GONE, told) is not None
            assert ended.code == 0 or taken, f"{about}\n{ended.shown}"
            stopped += taken
        if any(ended.code for ended in ends):
            assert run(scenario.words, folder).code == 0, about
        other = differences(folder, scenario.after)
        assert not other, f"{about}: {other}"
        shutil.rmtree(folder)
    figure(
        f"{name}: {pairs} pairs of writers without locks, all results the same; {stopped} of"
        f" {2 * pairs} writers were stopped by the other one"
    )


@pytest.mark.parametrize("stage", KINDS)
def test_a_reader_sees_all_or_nothing(
    scenarios: dict[str, Scenario], spot: Path, stage: str, long: bool, figure: Figure
) -> None:
    name, seen = KINDS[stage], {"nothing": 0, "unfinished": 0, "whole": 0}
    first, again = scenarios[stage], AGAIN.get(stage)
    every = [first] if again is None else [first, scenarios[again]]
    for scenario in every * (50 if long else 3):
        folder = scenario.again(spot / "here")
        process = begin(scenario.words, folder)
        place, about = folder / "artifacts" / name, scenario.name
        ended = False
        while not ended:
            ended = not process.is_alive()
            seen[look(place, FORMATS[stage], about)] += 1
        assert end(process, folder).code == 0
        assert look(place, FORMATS[stage], about) == "whole"
        shutil.rmtree(folder)
    assert seen["whole"] > 0
    assert seen["nothing"] + seen["unfinished"] > 0
    looks = ", ".join(f"{count:,} times {what}" for what, count in seen.items())
    figure(f"{stage}: a reader saw {looks}, and no half")


def look(place: Path, kind: str, about: str) -> str:
    """What a reader finds that opens an artifact and reads all of it."""
    try:
        manifest, digest = artifact.open_finished(place, kind, "wait")
    except ArtifactError as error:
        words = {"does not exist": "nothing", "is not finished": "unfinished"}
        return {f"{place} {said}: wait": word for said, word in words.items()}[str(error)]
    try:
        for part in manifest.files:
            artifact.check(place, part, "wait")
    except ArtifactError:
        # It was whole when it was opened; the writer has taken it back since.
        assert current(place, kind) != digest, about
        return "unfinished"
    return "whole"


def current(place: Path, kind: str) -> str | None:
    """The digest of the manifest that is there now."""
    try:
        return artifact.open_finished(place, kind, "")[1]
    except ArtifactError:
        return None


def test_what_a_dead_owner_left_stops_nobody(scenarios: dict[str, Scenario], spot: Path) -> None:
    scenario = scenarios["tokenize"]
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    since = "since 2020-01-01 00:00:00"
    for left in (
        b"",
        f"{dead} on {platform.node()} {since}\n".encode(),
        f"{os.getpid()} on {platform.node()} {since}\n".encode(),
        f"{os.getpid()} on another-machine {since}\n".encode(),
        b"\0" * 60,
        b"\xff" * 10_000,
    ):
        folder = scenario.again(spot / "here")
        (folder / ".kdpipe/locks").mkdir(parents=True)
        (folder / ".kdpipe/locks/corpus-text").write_bytes(left)
        ended = run(scenario.words, folder)
        assert ended.code == 0, ended.shown
        assert not differences(folder, scenario.after)
        shutil.rmtree(folder)


def test_the_owner_is_named_before_it_has_said_so(tmp_path: Path) -> None:
    path, told = tmp_path / "a", tmp_path / "told"
    path.write_text("1 on a-dead-machine since 2020-01-01 00:00:00\n")
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    process = os.fork()
    if process == 0:
        try:
            with lock(path, "it"):
                told.write_text("it has it")
        except LockedError as error:
            told.write_text(str(error))
        os._exit(0)
    time.sleep(0.2)
    owner = f"{os.getpid()} on {platform.node()} since now"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, owner.encode(), 0)
    os.waitpid(process, 0)
    os.close(descriptor)
    assert told.read_text() == (
        f"it is being written by process {owner}: wait for it to end, or stop it"
    )
