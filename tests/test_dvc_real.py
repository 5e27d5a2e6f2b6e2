"""The whole pipeline under the real `dvc repro`: what reruns, what does not, and after a crash."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pieces import sentences, write_text
from tests.tiny import tiny_teacher_folder

STUDENT = """
    caches: [said]
    model: {{kind: teacher_layers, layers: [1, {last}]}}
    objectives: [{{kind: embedding, loss: cosine, weight: 1.0}}]
    train: {{max_steps: 2, tokens_per_batch: 512}}
    evaluate: [{{kind: fidelity, max_rows: 50}}]
"""
PIPELINE = f"""
corpora:
  text:
    sources: [{{kind: files, files: [text.txt]}}]
    tokenizer: tiny
    max_seq_length: 32
    validation: 0.05
teachers:
  tiny: {{model: teacher}}
caches:
  said: {{corpus: text, teacher: tiny, dtype: fp32, targets: [{{kind: embedding}}]}}
students:
  small:{STUDENT.format(last=4)}
  tiny:{STUDENT.format(last=2)}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two students, now the current folder; its dvc.yaml is written."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "HOME": str(tmp_path),
        "DVC_SITE_CACHE_DIR": str(tmp_path / ".site"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}",
        "SHELL": "/bin/sh",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    tiny_teacher_folder(tmp_path / "teacher", layers=4)
    return tmp_path


def start(*words: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*words], stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def ran(*words: str) -> list[str]:
    """The stages that a command ran."""
    process = start(*words)
    told = process.communicate(timeout=200)[0]
    assert process.returncode == 0, told
    return [line.split("'")[1] for line in told.splitlines() if line.startswith("Running stage")]


@pytest.mark.slow
def test_what_reruns_and_what_does_not(folder: Path) -> None:
    write_text(folder / "text.txt", sentences(300))
    students = {f"{kind}-{name}" for kind in ("train", "evaluate") for name in ("small", "tiny")}
    assert set(ran("kdpipe", "repro")) == {"tokenize-text", "cache-teacher-said"} | students
    assert ran("dvc", "repro") == []

    pipeline = folder / "pipeline.yaml"
    pipeline.write_text("# A comment.\n" + PIPELINE)
    assert ran("dvc", "repro") == []

    pipeline.write_text(PIPELINE.replace("weight: 1.0", "weight: 2.0", 1))
    assert ran("dvc", "repro") == ["train-small", "evaluate-small"]


@pytest.mark.slow
def test_a_crash_in_the_middle_of_cache_teacher_continues_where_it_was(folder: Path) -> None:
    write_text(folder / "text.txt", sentences(60_000))
    subprocess.run(["kdpipe", "repro", "tokenize-text"], check=True, capture_output=True)
    crashing = start("dvc", "repro", "cache-teacher-said")
    store = folder / ".kdpipe/store"
    deadline = time.monotonic() + 120
    while len(list(store.glob("??/*.json"))) < 3:
        assert crashing.poll() is None, crashing.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    # DVC dies, and its stage does not: another one is told so.
    os.killpg(crashing.pid, signal.SIGSTOP)
    crashing.kill()
    crashing.wait()
    second = start("dvc", "repro", "cache-teacher-said")
    told = second.communicate(timeout=200)[0]
    assert second.returncode == 255, told
    assert re.search(r"cache said is being written by process \d+ on .+: wait for it to end", told)
    # The machine dies.
    os.killpg(crashing.pid, signal.SIGKILL)
    crashing.communicate()
    kept = len(list(store.glob("??/*.json")))
    assert not (folder / "artifacts/caches/said/manifest.json").exists()

    again = start("dvc", "repro", "cache-teacher-said")
    told = again.communicate(timeout=200)[0]
    assert again.returncode == 0, told
    line = next(line for line in told.splitlines() if line.startswith("artifacts/caches/said: "))
    blocks, new = (int(word.replace(",", "")) for word in (line.split()[1], line.split()[3]))
    assert kept >= 3
    assert new == blocks - kept
    assert not list(folder.rglob(".tmp-*"))
