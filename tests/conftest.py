"""Tests run alone: no network, two threads at most, nothing inherited from the caller's project.

With `--long` trials are counted in thousands and take up to an hour; what a test measures by its
fixture `figure` stands at the end of the run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kdpipe.project import Project
    from tests.trials import Scenario
    from tests.under_dvc import Dvc

os.environ.setdefault("OMP_NUM_THREADS", "1")
# In the background a shell has it ignored, here and in all that is started here.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HF_HUB_OFFLINE"] = "1"
for name in ("KDPIPE_STORE", "KDPIPE_DEVICE", "DVC_ROOT"):
    os.environ.pop(name, None)


Figure = Callable[[str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--long`."""
    parser.addoption("--long", action="store_true", help="thousands of trials, up to an hour")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `--long` runs; else begin with what takes longest, so that none waits."""
    if not config.getoption("--long"):
        items[:] = [item for item in items if item.get_closest_marker("long") is None]
        return

    def allowed(item: pytest.Item) -> float:
        timeout = item.get_closest_marker("timeout")
        return timeout.args[0] if timeout is not None else 0.0

    items.sort(key=allowed, reverse=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures, a line each."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "figure":
                terminalreporter.write_line(f"{report.nodeid.rpartition('/')[2]}: {value}")


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for all trials."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Keep a sentence with a number that a test has measured."""
    return lambda text: record_property("figure", text)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: str) -> None:
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"a test wants to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a corpus and a cache; what a module has in place of it is for `here`, too."""
    from tests.ends import made_project

    yield from made_project(tmp_path_factory.mktemp("made"))


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, which is the current folder."""
    from tests.ends import copy_of

    yield from copy_of(made, tmp_path / "here", monkeypatch)


@pytest.fixture(scope="module")
def _whole_made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from tests.sealed import whole_project

    yield from whole_project(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def whole(_whole_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project of `tests.sealed`, a copy of its own, which is the current folder."""
    from tests.ends import copy_of

    yield from copy_of(_whole_made, tmp_path / "here", monkeypatch)


@pytest.fixture(scope="session")
def _two_tasks_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.two_tasks import make

    return make(tmp_path_factory.mktemp("two-tasks"))


@pytest.fixture
def two_tasks(_two_tasks_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project of `tests.two_tasks`, a copy of its own, which is the current folder."""
    from tests.two_tasks import copy_of

    return copy_of(_two_tasks_made, tmp_path / "here", monkeypatch)


@pytest.fixture(scope="session")
def _finished_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.damage import make

    make(root := tmp_path_factory.mktemp("finished"))
    return root


@pytest.fixture
def finished(
    _finished_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """The project of `tests.damage`, a copy of its own, which is the current folder."""
    from kdpipe.project import open_project
    from tests.ends import copy_of

    for _ in copy_of(_finished_made, tmp_path / "here", monkeypatch):
        yield open_project(Path("pipeline.yaml"))


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder that is in memory, where that can be."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if os.access(place, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def scenarios(memory: Path) -> dict[str, Scenario]:
    """What `tests.trials` makes."""
    from tests.trials import scenarios

    return scenarios(memory / "made")


@pytest.fixture(scope="session")
def dvc(memory: Path) -> Iterator[Dvc]:
    """DVC, with a folder of its own."""
    from tests.under_dvc import Dvc

    (memory / "dvc").mkdir()
    with contextlib.closing(Dvc(memory / "dvc")) as program:
        yield program


@pytest.fixture(scope="session")
def under_dvc(dvc: Dvc) -> dict[str, Scenario]:
    """Each stage that DVC runs, as it ends where nothing goes wrong."""
    from tests.under_dvc import scenarios

    return {scenario.name: scenario for scenario in scenarios(dvc)}


@pytest.fixture
def trial(dvc: Dvc) -> Iterator[Path]:
    """Where a project may be for a trial under DVC."""
    yield dvc.place / "trial"
    shutil.rmtree(dvc.place / "trial", ignore_errors=True)


@pytest.fixture
def spot(scenarios: dict[str, Scenario]) -> Iterator[Path]:
    """A folder for trials on the same disk, so that files can be linked."""
    folder = scenarios["tokenize"].before.parent / "spot"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of about a hundred tokens, so that a small corpus has several."""
    from kdpipe import fill_blocks

    monkeypatch.setattr(fill_blocks, "SMALLEST", 20)
    monkeypatch.setattr(fill_blocks, "SPREAD", 100)
