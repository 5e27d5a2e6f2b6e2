"""What a DVC that died leaves torn, or in the name of the dead, stops nobody."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.exceptions import DvcException  # type: ignore[import-untyped]
from dvc.schema import COMPILED_LOCKFILE_SCHEMA  # type: ignore[import-untyped]
from dvc.utils.serialize import parse_yaml  # type: ignore[import-untyped]
from voluptuous import Invalid

from kdpipe import io
from kdpipe.dvc_left import is_nobodys, is_torn, removed
from kdpipe.stages import repro_pipeline
from kdpipe.stages.repro_pipeline import repro
from tests.conftest import Figure
from tests.ends import Capture
from tests.trials import Scenario, copy, differences
from tests.under_dvc import Dvc, environment

STATES, FEW_STATES = 1000, 60
RUNS = 8


def read_by_dvc(text: str) -> bool:
    try:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(text, "dvc.lock"))
    except (DvcException, Invalid):
        return False
    return True


def test_a_dvc_lock_that_dvc_cannot_read_is_torn(
    under_dvc: dict[str, Scenario], tmp_path: Path, long: bool, figure: Figure
) -> None:
    whole = (under_dvc["evaluate"].after / "dvc.lock").read_text()
    path, unread = tmp_path / "dvc.lock", 0
    path.write_text(whole)
    assert not is_torn(path)
    sizes = random.Random(0).sample(range(len(whole)), STATES if long else FEW_STATES)
    for text in ["", "\0" * 80, *(whole[:size] for size in sizes)]:
        path.write_text(text)
        if not read_by_dvc(text):
            unread += 1
            assert is_torn(path), text[-100:]
    assert unread > 10
    figure(f"{len(sizes) + 2:,} states of dvc.lock, {unread} of them not read by DVC: all found")
    path.write_text(f"<<<<<<< HEAD\n{whole}=======\n{whole}>>>>>>> other\n")
    assert not is_torn(path)


def test_whose_locks_of_dvc_are(tmp_path: Path) -> None:
    path = tmp_path / "rwlock"

    def nobodys(process: int, command: str = "/bin/dvc repro") -> bool:
        owner = {"pid": process, "cmd": command}
        answers = set()
        for told in ({"write": {"a": owner}}, {"read": {"a": [owner]}, "write": {}}):
            path.write_text(json.dumps(told))
            answers.add(is_nobodys(path))
        (answer,) = answers
        return answer

    for torn in ("", "{", "\0" * 9, "[]", '{"write": {"a": 1}}', '{"read": 1}'):
        path.write_text(torn)
        assert is_nobodys(path), torn
    path.write_text("{}")
    assert not is_nobodys(path)
    words = [sys.executable, "-c", "input()", "dvc", "repro"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as alive:
        assert not nobodys(alive.pid)
        alive.communicate(b"\n")
    assert not nobodys(os.getpid(), "python -m pytest")
    if Path("/proc/self").exists():
        assert nobodys(os.getpid())
        assert nobodys(alive.pid)


def test_what_a_living_dvc_edits_is_left_alone(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / ".dvc/tmp"
    folder.mkdir(parents=True)
    for path in (tmp_path / "dvc.lock", folder / "rwlock"):
        path.touch()
    for name in ("lock", "rwlock.lock"):
        with io.lock(folder / name, name):
            assert not removed(tmp_path)
    assert capsys.readouterr().err == ""
    assert removed(tmp_path)
    assert capsys.readouterr().err == (
        "dvc.lock was left by a DVC that died: removed; once more:\n"
        ".dvc/tmp/rwlock was left by a DVC that died: removed; once more:\n"
    )
    assert not removed(tmp_path)


@pytest.mark.timeout(600)
def test_repro_goes_on(
    under_dvc: dict[str, Scenario],
    dvc: Dvc,
    trial: Path,
    long: bool,
    monkeypatch: pytest.MonkeyPatch,
    figure: Figure,
) -> None:
    scenario, draw = under_dvc["augment"], random.Random(1)
    for name, value in environment(dvc.place).items():
        monkeypatch.setenv(name, value)
    runs = RUNS if long else 1
    for _ in range(runs):
        monkeypatch.chdir(copy(scenario.after, trial))
        whole = (trial / "dvc.lock").read_text()
        torn = whole[: draw.randrange(len(whole))]
        while read_by_dvc(torn):
            torn = whole[: draw.randrange(len(whole))]
        (trial / "dvc.lock").write_text(torn)
        (trial / ".dvc/tmp").mkdir()
        (trial / ".dvc/tmp/rwlock").write_text(draw.choice(["", '{"wr', "\0" * 20]))
        repro("pipeline.yaml", scenario.words)
        assert not differences(trial, scenario.after), torn[-100:]
        shutil.rmtree(trial)
    figure(f"dvc.lock and rwlock torn {runs} times: kdpipe repro went on to the same bytes")


def test_an_init_that_died_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    command, variables = repro_pipeline._dvc()
    repro_pipeline._ensure_project(Path(), command, variables)
    status = [*command, "status", "-q"]
    assert subprocess.run(status, env=variables, check=False).returncode == 0
