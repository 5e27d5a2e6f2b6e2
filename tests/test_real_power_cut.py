"""A file system as it stands on its device in the middle of a run: as after a power cut.

An ext4 in a file is mounted, a stage runs there and stops at a change of the disk; what the file
holds then is all that a power cut leaves. Needs root, who alone may mount.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.conftest import Figure
from tests.disk import Fault
from tests.power_cut import Cut
from tests.test_power_loss import known, wrong
from tests.trials import STAGES, Scenario, begin, differences, run

CUTS = 10
"""Of a stage."""
_BYTES = 48 << 20
_LONG, _SHORT = 300, 1
"""Seconds after which ext4 writes names down by itself; data that nobody syncs follows much later,
so that after `_SHORT` there are names of files without their data."""


def _can_mount() -> bool:
    return os.geteuid() == 0 and all(map(shutil.which, ("mkfs.ext4", "mount", "umount")))


@contextlib.contextmanager
def mounted(image: Path, place: Path, commit: int) -> Iterator[Path]:
    """A file system that lies in a file; skips the test where that may not be."""
    place.mkdir()
    words = ["mount", "-o", f"loop,commit={commit}", str(image), str(place)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        place.rmdir()
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def wait_until_it_stops(process: ForkServerProcess) -> bool:
    """Whether it has sent itself SIGSTOP, and not ended."""
    state = Path(f"/proc/{process.pid}/stat")
    while process.is_alive():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if state.read_text().rpartition(")")[2].split()[0] == "T":
                return True
        time.sleep(0.002)
    return False


@pytest.mark.skipif(not _can_mount(), reason="only root may mount a file system")
@pytest.mark.parametrize(
    "name",
    [
        one if one == "cache-teacher" else pytest.param(one, marks=pytest.mark.long)
        for one in STAGES
    ],
)
@pytest.mark.timeout(1800)
def test_what_is_on_the_device(
    scenarios: dict[str, Scenario], tmp_path: Path, name: str, long: bool, figure: Figure
) -> None:
    scenario, draw = scenarios[name], random.Random(name)
    calls = scenario.record.calls
    image, copy = tmp_path / "image", tmp_path / "copy"
    cuts, acknowledged = CUTS if long else 1, 0
    for number in range(cuts):
        at, commit = draw.randrange(len(calls)), (_LONG, _SHORT)[number % 2]
        about = f"{name}, stopped before call {at} ({calls[at]}), commit={commit}"
        image.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        with mounted(image, tmp_path / "disk", commit) as disk:
            folder = disk / "here"
            shutil.copytree(scenario.before, folder)
            os.sync()
            process = begin(scenario.words, folder, Fault(at, "stop"))
            assert process.pid is not None
            assert wait_until_it_stops(process), about
            time.sleep(2.5 * commit if commit == _SHORT else 0)
            shutil.copyfile(image, copy)
            seen = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        # Reports tell of speed, so they are other ones than those of the first run.
        whole = known(scenario)
        for path, data in seen.items():
            whole.setdefault(path, set()).add(data)
        cut = Cut(scenario.before)
        cut.play(scenario.record.log[: scenario.record.places[at]])
        with mounted(copy, tmp_path / "disk", _LONG) as disk:
            folder = disk / "here"
            for path in cut.done:
                assert (folder / path).is_file(), f"{about}: {path} is lost"
                assert (folder / path).read_bytes() == seen[path], f"{about}: {path}"
            acknowledged += len(cut.done)
            assert not wrong(folder, scenario, whole), about
            ended = run(scenario.words, folder)
            assert ended.code == 0, f"{about}\n{ended.shown}"
            assert not differences(folder, scenario.after), about
    figure(
        f"{name}: {cuts} times what was on the device, {acknowledged:,} finished files looked for,"
        " none lost, none torn, all went on to the same bytes"
    )
