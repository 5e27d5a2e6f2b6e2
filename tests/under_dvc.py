"""A tiny project under the real DVC, whose stages run in processes that may die.

DVC finds a small `kdpipe` first in PATH. It asks the test, through a socket, which forks a process
that has everything imported, as `tests.trials` does; then it ends as that one did. So a stage takes
a moment and not five seconds, and is killed at the call of the disk that the test says.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from kdpipe import dvc
from kdpipe.pipeline import load_pipeline
from tests import pieces, trials
from tests.disk import Fault
from tests.trials import Ended, Scenario

TARGETS = {
    "augment": "augment-more",
    "tokenize": "tokenize-text",
    "cache-teacher": "cache-teacher-said",
    "train": "train-small",
    "evaluate": "evaluate-small",
}
"""What the stages are called in dvc.yaml."""
ASKING = """\
#!{python} -IS
import json, os, socket, sys
environment = {{name: value for name, value in os.environ.items() if name.startswith("DVC_")}}
with socket.socket(socket.AF_UNIX) as test:
    test.connect({address!r})
    test.sendall(json.dumps([sys.argv[1:], environment]).encode() + b"\\n")
    code, shown = json.loads(test.makefile().read())
print(shown, end="", file=sys.stderr, flush=True)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@dataclass
class Asked:
    """A stage that DVC has started and that waits for its process."""

    connection: socket.socket
    words: list[str]
    environment: dict[str, str]

    def begin(self, project: Path, fault: Fault | None = None) -> ForkServerProcess:
        """Start its process."""
        first = functools.partial(_set, self.environment)
        return trials.begin(self.words, project, fault, first=first)

    def answer(self, ended: Ended) -> None:
        """End as the process did."""
        with self.connection:
            self.connection.sendall(json.dumps([ended.code, ended.shown]).encode())


@dataclass
class Done:
    """The end of a `dvc repro`."""

    code: int
    told: str
    stages: list[Ended]
    """The processes of the stages that it started."""

    @property
    def ran(self) -> list[str]:
        """The stages, by name."""
        return re.findall(r"^Running stage '(.+)':$", self.told, re.MULTILINE)


class Dvc:
    """DVC as a program, in whose PATH is a `kdpipe` that asks this process."""

    def __init__(self, place: Path) -> None:
        self.place = place
        address = str(place / "socket")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(address)
        self._listening.listen()
        self._listening.settimeout(0.02)
        program = place / "bin/kdpipe"
        program.parent.mkdir()
        program.write_text(ASKING.format(python=sys.executable, address=address))
        program.chmod(0o755)

    def close(self) -> None:
        """Answer no more."""
        self._listening.close()

    def start(self, project: Path, *targets: str) -> subprocess.Popen[str]:
        """A `dvc repro` in a group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", *targets],
            cwd=project,
            env=environment(self.place),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def asked(self, process: subprocess.Popen[str]) -> Asked | None:
        """The next stage that it starts; None where it ends before."""
        while process.poll() is None:
            try:
                connection, _ = self._listening.accept()
            except TimeoutError:
                continue
            connection.settimeout(None)
            return Asked(connection, *json.loads(connection.makefile().readline()))
        return None

    def repro(
        self, project: Path, *targets: str, fault: Fault | None = None, machine: bool = False
    ) -> Done:
        """Run it to its end; where a stage is killed, all dies if it is the `machine` that did."""
        process, stages = self.start(project, *targets), list[Ended]()
        while (asked := self.asked(process)) is not None:
            stages.append(trials.end(asked.begin(project, fault), project))
            if machine and stages[-1].code == -signal.SIGKILL:
                os.killpg(process.pid, signal.SIGKILL)
                asked.connection.close()
            else:
                asked.answer(stages[-1])
        told = process.communicate()[0]
        return Done(process.returncode, told, stages)


def environment(place: Path) -> dict[str, str]:
    """Of a program: nothing of this user's, and the `kdpipe` in `place` first."""
    programs = [place / "bin", Path(sys.executable).parent]
    return {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(place / "site"),
        "HOME": str(place),
        "KDPIPE_DEVICE": "cpu",
        "NO_COLOR": "1",
        "PATH": os.pathsep.join([*map(str, programs), os.defpath]),
        "SHELL": "/bin/sh",
    }


def new_project(project: Path) -> None:
    """A project of all kinds of stages, as `kdpipe repro` leaves it to DVC; nothing is made yet."""
    project.mkdir()
    pieces.begin(project, trials.ROWS, trials.PIPELINE)
    file = project / pieces.FILE
    dvc.ignore(project)
    (project / dvc.FILE).write_text(dvc.dvc_yaml(load_pipeline(file), file, project))
    (project / ".dvc").mkdir()
    (project / ".dvc/config").write_text("[core]\n    no_scm = true\n")


def scenarios(program: Dvc) -> Iterator[Scenario]:
    """Each stage, as it ends where nothing goes wrong."""
    before = program.place / "0"
    new_project(before)
    for name, target in TARGETS.items():
        after = trials.copy(before, program.place / name)
        done = program.repro(after, target)
        assert (done.code, done.ran) == (0, [target]), done.told
        (stage,) = done.stages
        assert stage.record is not None
        yield Scenario(name, [target], before, after, stage.record, 0.0)
        before = after


def _set(environment: dict[str, str]) -> None:
    os.environ.update(environment)
