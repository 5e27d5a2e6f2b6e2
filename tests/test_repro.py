"""`kdpipe repro` in a user's folder, with the real DVC."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from kdpipe.errors import ArtifactError, UsageError
from kdpipe.stages import repro_pipeline
from kdpipe.stages.init_project import init
from kdpipe.stages.repro_pipeline import repro

TEXT = "".join(f"Sentence number {number} is about the weather.\n" for number in range(50))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, now the current one, with a text; kdpipe is not in PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / ".site"))
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setenv("SHELL", "/bin/sh")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "my.txt").write_text(TEXT, "utf-8")
    return tmp_path


def _kdpipe(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kdpipe", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_empty_folder_becomes_a_project_that_runs_and_rests(folder: Path) -> None:
    assert _kdpipe("init", "my.txt").stdout.endswith("\nnext: kdpipe repro\n")
    done = _kdpipe("repro", "tokenize-text")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "> kdpipe tokenize --stage-version 2 pipeline.yaml text\n" in done.stderr
    assert (folder / "artifacts/corpora/text/manifest.json").is_file()
    config = (folder / ".dvc/config").read_text("utf-8")
    assert "no_scm = True" in config
    assert "analytics = false" in config
    written = (folder / "dvc.yaml").stat()

    again = _kdpipe("repro", "pipeline.yaml", "tokenize-text")
    assert again.returncode == 0
    assert "Stage 'tokenize-text' didn't change, skipping\n" in again.stderr
    assert (folder / "dvc.yaml").stat() == written

    quiet = _kdpipe("-q", "repro", "tokenize-text")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")

    # A person has to choose between the sides of a merge.
    (folder / "dvc.lock").write_text("<<<<<<< HEAD\n=======\n>>>>>>> other\n", "utf-8")
    failed = _kdpipe("repro", "tokenize-text")
    assert (failed.returncode, failed.stdout) == (255, "")
    assert "dvc.lock' validation failed" in failed.stderr


def test_mistakes_are_found_before_dvc_starts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        UsageError, match=r"^no pipeline file is here: 'kdpipe init my\.txt' writes"
    ):
        repro()
    with pytest.raises(UsageError, match=r"^other\.yaml: no such file; 'kdpipe init' writes one$"):
        repro("other.yaml")
    init(["my.txt"])
    with pytest.raises(
        UsageError, match=r"^no stage is called 'train-smal': did you mean 'train-sm"
    ):
        repro("train-smal")
    (folder / "my.txt").rename(folder / "mine.txt")
    with pytest.raises(
        ArtifactError, match=r"^my\.txt does not exist: check the path in pipeline\.ya"
    ):
        repro()
    (folder / "mine.txt").rename(folder / "my.txt")
    (folder / "dvc.yaml").write_text("stages: {}\n", "utf-8")
    with pytest.raises(
        UsageError, match=r"^dvc\.yaml here was not written by kdpipe: move it away"
    ):
        repro()
    assert (folder / "dvc.yaml").read_text("utf-8") == "stages: {}\n"
    assert not (folder / ".dvc").exists()


def test_the_pipeline_file_is_found(folder: Path) -> None:
    def here() -> str:
        path: Path = repro_pipeline._pipeline_here(Path())
        return path.as_posix()

    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "b.yaml").touch()
    assert here() == "pipelines/b.yaml"
    (folder / "pipeline.yaml").touch()
    with pytest.raises(UsageError) as caught:
        here()
    assert str(caught.value) == (
        "several pipeline files are here: name one of pipeline.yaml, pipelines/b.yaml"
    )
    text = "# Written by 'kdpipe repro' from pipelines/b.yaml: edit that file, not this one.\n"
    (folder / "dvc.yaml").write_text(text, "utf-8")
    assert here() == "pipelines/b.yaml"
    (folder / "pipelines" / "b.yaml").unlink()
    assert here() == "pipeline.yaml"


def test_without_dvc_the_remedy_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python"))
    with pytest.raises(UsageError) as caught:
        repro_pipeline._dvc()
    assert str(caught.value) == "DVC is not installed: pip install 'kdpipe[dvc]'"
    program = folder / "bin" / "dvc"
    program.parent.mkdir()
    program.touch(mode=0o755)
    command, environment = repro_pipeline._dvc()
    assert command == [str(program)]
    assert environment["PATH"] == f"{folder / 'bin'}{os.pathsep}{os.defpath}"


@pytest.mark.parametrize("place", [".", "sub"])
def test_a_git_repository_is_used(
    folder: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    (folder / place).mkdir(exist_ok=True)
    monkeypatch.chdir(folder / place)
    command, environment = repro_pipeline._dvc()
    repro_pipeline._ensure_project(Path(), command, environment)
    config = (folder / place / ".dvc/config").read_text("utf-8")
    assert "no_scm" not in config
    status = [*command, "status", "-q"]
    assert subprocess.run(status, env=environment, check=False).returncode == 0
    # A second call finds the project, also from below.
    (folder / place / "below").mkdir()
    monkeypatch.chdir(folder / place / "below")
    repro_pipeline._ensure_project(Path(), command, environment)
    assert not (folder / place / "below" / ".dvc").exists()


def test_a_project_that_cannot_be_made_ends_with_the_code_of_dvc(folder: Path) -> None:
    with pytest.raises(typer.Exit) as caught:
        repro_pipeline._ensure_project(folder, ["sh", "-c", "exit 5"], dict(os.environ))
    assert caught.value.exit_code == 5


STAGE = """\
import pathlib, signal, time
def stop(number, frame):
    raise SystemExit(f"stopped by {signal.Signals(number).name}")
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
pathlib.Path("started").touch()
try:
    time.sleep(60)
finally:
    time.sleep(0.5)
    pathlib.Path("cleaned").touch()
"""


@pytest.mark.parametrize("ignored", [False, True])
def test_no_orphan_stays_when_repro_is_told_to_end(folder: Path, ignored: bool) -> None:
    """Also of a job in the background of a script, whose shell makes it ignore SIGINT."""
    (folder / "stage.py").write_text(STAGE, "utf-8")
    (folder / "dvc.yaml").write_text(
        f"stages:\n  wait:\n    cmd: {sys.executable} stage.py\n", "utf-8"
    )
    command, environment = repro_pipeline._dvc()
    subprocess.run([*command, "init", "-q", "--no-scm"], env=environment, check=True)
    code = textwrap.dedent(
        f"""
        import os, signal, sys
        from kdpipe.stages.repro_pipeline import _run
        if {ignored}:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(_run({command!r} + ["repro"], dict(os.environ)))
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True
    ) as parent:
        _wait_for(folder / "started")
        group = _children(parent.pid)
        assert len(group) == 1
        if ignored:
            parent.send_signal(signal.SIGINT)
        for _ in range(2):  # as `timeout` does, which signals the process and its group
            parent.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        _, said = parent.communicate(timeout=30)
    assert parent.returncode == -signal.SIGTERM
    # DVC itself saw the stage end, so its locks are gone too.
    assert "stopped by SIGINT" in said
    assert "failed to reproduce 'wait'" in said
    assert (folder / "cleaned").is_file()
    with pytest.raises(ProcessLookupError):
        os.killpg(group[0], 0)


def _children(pid: int) -> list[int]:
    lines = subprocess.check_output(["ps", "-A", "-o", "ppid=,pid="], text=True).splitlines()
    pairs: list[Any] = [line.split() for line in lines]
    return [int(child) for parent, child in pairs if int(parent) == pid]


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)
