"""Runs that end early, by a full disk or a signal; the next one goes on from there."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdpipe import cli
from tests import ends
from tests.ends import Capture, begin, command, edit, fails, only_line, run_words, wait_for

MANIFESTS = {
    "tokenize": Path("artifacts/corpora/text/manifest.json"),
    "cache-teacher": Path("artifacts/caches/said/manifest.json"),
    "train": Path("artifacts/students/small/manifest.json"),
}
RUNNING = {
    "cache-teacher": ".kdpipe/store/*/*.json",
    "train": ".kdpipe/runs/*/step-*3/state.json",
}
STOPPED = "interrupted: what was finished is kept, the same command continues"
SKIPPED = 77


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose stages all ran without a stop; its cache has many small shards."""
    for root in ends.made_project(tmp_path_factory.mktemp("made"), tokens_per_block=64):
        command(["train", "pipeline.yaml"])
        shutil.rmtree(root / ".kdpipe/locks")
        yield root


def forget(stage: str) -> bytes:
    """Remove what a stage made, and give back its manifest."""
    manifest = MANIFESTS[stage].read_bytes()
    shutil.rmtree(MANIFESTS[stage].parent)
    if stage == "cache-teacher":
        shutil.rmtree(".kdpipe/store")
    return manifest


@contextlib.contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes (Python ignores the signal for that)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run_as_nobody(words: list[str]) -> None:
    """The same, by a user whom the modes of files bind, were it root."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
        if not os.access(cli.__file__, os.R_OK) or not os.access("text.txt", os.R_OK):
            raise SystemExit(SKIPPED)
    run_words(words)


def assert_went_on(shown: str) -> None:
    """The teacher read some blocks, and not all of them."""
    (words,) = re.findall(r"(\d+) blocks, (\d+) of them new", shown)
    assert 0 < int(words[1]) < int(words[0])


def leftovers(root: Path) -> list[Path]:
    """Temporary files."""
    return [*root.rglob("*tmp*")]


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("tokenize", r"artifacts/corpora/text/block-\w+\.arrow"),
        ("cache-teacher", r"\.kdpipe/store/\w\w/\w+\.safetensors"),
        ("train", r"\.kdpipe/runs/\w+/step-00000004/weights\.safetensors"),
        ("train, at its end", r"\.kdpipe/runs/\w+/step-00000040/weights\.safetensors"),
    ],
)
def test_full_disk(here: Path, capsys: Capture, stage: str, name: str) -> None:
    stage, _, at_end = stage.partition(", ")
    if not at_end:
        edit("save_steps: 500", "save_steps: 4")
    before = forget(stage)
    with disk_of(2000):
        line = fails(capsys, [stage, "pipeline.yaml"], 5)
    assert re.fullmatch(
        rf"no space left while writing {name} \([\d,]+ bytes\): free some and rerun; what was"
        " finished is kept, the same command continues",
        line,
    ), line
    assert not MANIFESTS[stage].exists()
    assert not leftovers(here)
    command([stage, "pipeline.yaml"])
    assert MANIFESTS[stage].read_bytes() == before


@pytest.mark.parametrize("stage", ["cache-teacher", "train"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal(here: Path, capsys: Capture, stage: str, number: int, code: int) -> None:
    edit("save_steps: 500", "save_steps: 1")
    before = forget(stage)
    process = begin([stage, "pipeline.yaml"])
    assert process.pid is not None
    wait_for(process, RUNNING[stage])
    os.kill(process.pid, number)
    process.join(60)
    log = Path("log").read_text()
    assert (process.exitcode, only_line(log)) == (code, STOPPED), log
    assert not MANIFESTS[stage].exists()
    assert not leftovers(here)
    capsys.readouterr()
    command([stage, "pipeline.yaml"])
    assert MANIFESTS[stage].read_bytes() == before
    shown = capsys.readouterr().err
    if stage == "train":
        (step,) = re.findall(r"^stopped after step (\d+): ", log, re.MULTILINE)
        assert f"continuing after step {step} of 40\n" in shown
        assert not any(Path(".kdpipe/runs").glob("*"))
    else:
        assert_went_on(shown)


def run_in_the_background(words: list[str]) -> None:
    """As a shell does without job control: nobody's Ctrl-C is for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_words(words)


@pytest.mark.parametrize("stage", ["cache-teacher", "train"])
def test_in_the_background_ctrl_c_is_for_others(here: Path, stage: str) -> None:
    edit("save_steps: 500", "save_steps: 1")
    before = forget(stage)
    process = begin([stage, "pipeline.yaml"], run_in_the_background)
    assert process.pid is not None
    wait_for(process, RUNNING[stage])
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 0, Path("log").read_text()
    assert MANIFESTS[stage].read_bytes() == before


def test_kill_while_another_process_waits(here: Path, capsys: Capture) -> None:
    before = forget("cache-teacher")
    process = begin(["cache-teacher", "pipeline.yaml"])
    assert process.pid is not None
    wait_for(process, RUNNING["cache-teacher"])
    os.kill(process.pid, signal.SIGSTOP)
    line = fails(capsys, ["cache-teacher", "pipeline.yaml"], 4)
    assert line.startswith(f"cache said is being written by process {process.pid} on ")
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    command(["cache-teacher", "pipeline.yaml"])
    assert MANIFESTS["cache-teacher"].read_bytes() == before
    assert not leftovers(here)
    assert_went_on(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("stage", "closed", "name"),
    [
        ("tokenize", ".", ".kdpipe/locks"),
        ("tokenize", "artifacts", "artifacts/corpora/text"),
        ("cache-teacher", "artifacts", "artifacts/caches/said"),
        ("cache-teacher", ".kdpipe/store", ".kdpipe/store/lock"),
        ("train", "artifacts", "artifacts/students/small"),
    ],
)
def test_folder_that_may_not_be_written(here: Path, stage: str, closed: str, name: str) -> None:
    before = forget(stage)
    Path("log").touch()
    Path(".kdpipe/store").mkdir(exist_ok=True)
    for path in (here, *here.rglob("*")):
        path.chmod(0o777)
    for path in (Path(closed), *Path(closed).rglob("*")):
        if path.is_dir():
            path.chmod(0o555)
    process = begin([stage, "pipeline.yaml"], run_as_nobody)
    process.join(60)
    for path in (here, *(path for path in here.rglob("*") if path.is_dir())):
        path.chmod(0o777)
    if process.exitcode == SKIPPED:
        pytest.skip("another user cannot read the program, and root may write anywhere")
    log = Path("log").read_text()
    assert process.exitcode == 5, log
    assert re.fullmatch(
        rf"kdpipe: error: {name} may not be written or read: mend its permissions; what was"
        " finished is kept, the same command continues",
        only_line(log),
    ), log
    command([stage, "pipeline.yaml"])
    assert MANIFESTS[stage].read_bytes() == before


LOST = """
import sys, time
from kdpipe import cli

class Native:
    def __del__(self):
        raise {what}

def program(words):
    def run(**keys):
        Native()
        time.sleep(60)
    return run

cli._program = program
sys.exit(cli.main([]))
"""


def _end_of(source: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", source]
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize(
    ("what", "code"), [("KeyboardInterrupt", 130), ("cli._Terminated(143)", 143)]
)
def test_a_signal_that_native_code_ignores_comes_again(what: str, code: int) -> None:
    ended = _end_of(LOST.format(what=what))
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr == "interrupted: what was finished is kept, the same command continues\n"


def test_other_errors_that_nobody_can_catch_are_still_told() -> None:
    source = LOST.format(what="ValueError('lost')").replace("time.sleep(60)", "pass")
    ended = _end_of(source)
    assert ended.returncode == 0
    assert "ValueError: lost" in ended.stderr
