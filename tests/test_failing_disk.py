"""A disk that is full or fails: one line, nothing lost, and the next run goes on."""

from __future__ import annotations

import ctypes
import os
import random
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import Figure
from tests.disk import FREES, Fault
from tests.trials import (
    FORKS,
    NAMES,
    STAGES,
    Scenario,
    copy,
    differences,
    go,
    points,
    run,
    tree,
)

FEW = 8
PAGE, TRIES, FEW_TRIES = 4096, 12, 2
"""Of memory; times that a disk grows, not counting what a stage removes at its end."""
NOT_ALLOWED = 77
NEW_MOUNTS, PRIVATE, REMOUNT = 0x20000, 0x44000, 32
"""Of Linux: CLONE_NEWNS; MS_REC and MS_PRIVATE; MS_REMOUNT."""
MADE = {"artifacts", "reports", ".kdpipe"}
KINDS = ["ENOSPC", "EDQUOT", "EIO", "EROFS"]
KEPT = "what was finished is kept, the same command continues"
PLACE = r"(?P<path>(artifacts|reports|\.kdpipe)[^ :]*)"
LINES = {
    "ENOSPC": rf"no space left while writing {PLACE} \((?P<size>[\d,]+ bytes, )?[\d,]+ are free\):"
    rf" free some and rerun; {KEPT}",
    "EDQUOT": rf"no space left while writing {PLACE}( \([\d,]+ bytes\))?: free some and rerun;"
    f" {KEPT}",
    "EIO": rf"the disk reports an I/O error at {PLACE}: {KEPT}",
    "EROFS": rf"{PLACE} may not be written or read: mend its permissions; {KEPT}",
}


def trial(scenario: Scenario, folder: Path, fault: Fault) -> bool:
    """Run into a failing disk, then on a sound one; whether the first run noticed."""
    call = scenario.record.calls[fault.at]
    about = f"{scenario.name}, {fault}: {call}"
    scenario.again(folder)
    ended = run(scenario.words, folder, fault)
    left = [path for path in folder.rglob("*") if path.name.startswith(".tmp-")]
    if ended.code == 0:
        met = scenario.record.calls[fault.at : None if fault.lasting else fault.at + 1]
        frees = all(one.split()[0] in FREES for one in met)
        assert frees or fault.what == "short", f"{about}\n{ended.shown}"
    else:
        lines = [line for line in ended.shown.splitlines() if line.startswith("kdpipe: ")]
        assert (ended.code, len(lines)) == (5, 1), f"{about}\n{ended.shown}"
        assert "Traceback" not in ended.shown, about
        line = re.fullmatch(f"kdpipe: error: {LINES[fault.what]}", lines[0])
        assert line is not None, f"{about}\n{lines[0]}"
        assert ".tmp-" not in line["path"], about
        if call.startswith("write ") and fault.what == "ENOSPC":
            assert line["size"], about
    # What may not be written cannot be removed either.
    stuck = fault.what in {"EIO", "EROFS"} and (fault.lasting or call.startswith("unlink "))
    assert stuck or not left, about
    again = run(scenario.words, folder)
    assert again.code == 0, f"{about}\n{again.shown}"
    other = differences(folder, scenario.after)
    assert not other, f"{about}: {other}"
    shutil.rmtree(folder)
    return ended.code != 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(3600)
def test_a_call_fails(
    scenarios: dict[str, Scenario], spot: Path, name: str, long: bool, figure: Figure
) -> None:
    scenario, draw = scenarios[name], random.Random(len(name))
    calls = len(scenario.record.calls)
    few = FEW if name in STAGES else FEW // 2
    faults = [
        Fault(at, draw.choice([*KINDS, "short"]), lasting=draw.random() < 0.5)
        for at in points(calls, None if long else few, seed=calls)
    ]
    told = sum(trial(scenario, spot / "here", fault) for fault in faults)
    figure(f"{name}: {len(faults):,} of {calls:,} calls failed, {told:,} ended the run, none lost")


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
def test_modes_follow_the_umask(scenarios: dict[str, Scenario], spot: Path, umask: int) -> None:
    first, last = scenarios[STAGES[0]].before, scenarios[STAGES[-1]].after
    folder = copy(first, spot / "here")
    for stage in STAGES:
        ended = run([stage, "pipeline.yaml"], folder, umask=umask)
        assert ended.code == 0, ended.shown
    made = [path for path in folder.rglob("*") if path.relative_to(folder).parts[0] in MADE]
    assert len(made) > 50
    wrong = {
        path.relative_to(folder).as_posix(): oct(path.stat().st_mode & 0o777)
        for path in made
        if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not wrong
    assert tree(folder) == tree(last)


@pytest.mark.parametrize(
    "name",
    [b"two words", b"two\nlines", b"\xff\xfe not text", b"x" * 255, "\u00e4 \u2028".encode()],
    ids=["blank", "newline", "non-UTF-8", "long", "odd"],
)
def test_odd_names_of_the_project(scenarios: dict[str, Scenario], spot: Path, name: bytes) -> None:
    folder = copy(scenarios[STAGES[0]].before, spot / os.fsdecode(name))
    for stage in STAGES:
        ended = run([stage, "pipeline.yaml"], folder)
        assert ended.code == 0, ended.shown
    assert tree(folder) == tree(scenarios[STAGES[-1]].after)


def grow(folder: Path, size: int, flags: int) -> bool:
    """Mount a disk of `size` bytes, or let it grow; whether that is allowed."""
    kind, options = b"tmpfs", f"size={size}".encode()
    done: int = ctypes.CDLL(None).mount(kind, os.fsencode(folder), kind, flags, options)
    return done == 0


def taken(folder: Path) -> int:
    """Bytes of a disk that files need."""
    return sum(
        -(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file()
    )


def on_a_small_disk(scenario: Scenario, folder: Path, told: Path, tries: int) -> None:
    """Run the command on a disk that is full, and grows until it has all; notes each end."""
    libc = ctypes.CDLL(None)
    size = taken(scenario.before) + PAGE
    step = max((taken(scenario.after) - size) // tries, PAGE)
    if libc.unshare(NEW_MOUNTS) or libc.mount(b"none", b"/", None, PRIVATE, None):
        os._exit(NOT_ALLOWED)
    if not grow(folder, size, 0):
        os._exit(NOT_ALLOWED)
    here, ends = Path(shutil.copytree(scenario.before, folder / "here")), list[object]()
    while not ends or ends[-1] != 0:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(told.with_suffix(".err"), os.O_WRONLY | os.O_CREAT), 2)
            os._exit(go(scenario.words, here))
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        ends += [path.name for path in here.rglob(".tmp-*")]
        size += step
        assert grow(folder, size, REMOUNT)
    other = differences(here, scenario.after)
    told.write_text(f"{ends} {other}")
    os._exit(0)


@pytest.mark.parametrize("name", STAGES)
def test_a_disk_that_is_really_full(
    scenarios: dict[str, Scenario], spot: Path, name: str, long: bool, figure: Figure
) -> None:
    folder, told, tries = spot / "disk", spot / "told", TRIES if long else FEW_TRIES
    folder.mkdir()
    process = FORKS.Process(target=on_a_small_disk, args=(scenarios[name], folder, told, tries))
    process.start()
    process.join(120)
    if process.exitcode == NOT_ALLOWED:
        pytest.skip("no disk may be mounted here")
    assert process.exitcode == 0
    ends = re.fullmatch(r"\[((?:5, )*)0\] \[\]", told.read_text())
    assert ends is not None, told.read_text()
    full = ends[1].count("5")
    assert full > 0
    figure(f"{name}: {full} runs on a full disk, then one that had room: the same bytes")
