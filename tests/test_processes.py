"""Several processes make what one makes, and end as one does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kdpipe import job, processes
from kdpipe.errors import UsageError
from kdpipe.processes import Group
from kdpipe.project import Project, open_project
from tests.ends import command
from tests.pieces import make_cache, make_corpus, new_project, sentences
from tests.small import SMALL, TOKEN, TRAIN, write

CACHE = {"corpus": "text", "teacher": "tiny", "dtype": "fp32"}


def write_pipeline(root: Path, **sections: Any) -> Project:
    """The file of a small project, as JSON, which YAML understands."""
    place = new_project(root, sentences(400), **sections)
    kept = place.pipeline.model_dump(mode="json")
    (root / "pipeline.yaml").write_text(json.dumps(kept), "utf-8")
    return place


def kdpipe(*words: str, store: str = "store") -> subprocess.CompletedProcess[str]:
    with started(*words, store=store) as process:
        _, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(words, process.returncode, "", errors)


def started(*words: str, store: str = "store") -> subprocess.Popen[str]:
    environment = os.environ | {"KDPIPE_STORE": store, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "kdpipe", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def test_two_processes_read_what_one_reads(project: Path) -> None:
    place = write_pipeline(project, caches={"said": CACHE | {"targets": [{"kind": "embedding"}]}})
    alone = make_cache(place, make_corpus(place))[0]
    shards = [file.digest for file in alone.manifest.files]
    done = kdpipe("cache-teacher", "pipeline.yaml", "--verify", "--processes", "2", store="other")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the teacher read 400 of 400 rows in fp32") == 1
    assert [file.digest for file in place.cache("said", alone.corpus).manifest.files] == shards


STUDENT = {
    "caches": ["said"],
    "model": {"kind": "teacher_layers", "layers": [1, 3]},
    "objectives": [{"kind": "hidden", "layers": {2: 4}}, {"kind": "embedding"}],
    "train": {
        "max_steps": 6,
        "gradient_accumulation_steps": 3,
        "tokens_per_batch": 256,
        "logging_steps": 1,
        "save_steps": 2,
        "eval_steps": 3,
        "bf16": False,
    },
}


def ready_to_train(root: Path, **train: Any) -> None:
    targets = [{"kind": "embedding"}, {"kind": "hidden", "layers": [4]}]
    student = STUDENT | {"train": STUDENT["train"] | train}
    said = CACHE | {"targets": targets}
    place = write_pipeline(root, caches={"said": said}, students={"s": student})
    make_cache(place, make_corpus(place))


def logged(root: Path) -> list[list[float]]:
    lines = (root / "artifacts/students/s/steps.tsv").read_text().splitlines()[1:]
    return [[float(cell or 0.0) for cell in line.split("\t")] for line in lines]


def test_what_two_processes_begin_one_ends_as_if_it_had_been_alone(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dropout included; the batches of a step, three, are not even shared evenly."""
    ready_to_train(project)
    command(["train", "pipeline.yaml"])
    alone = logged(project)
    shutil.rmtree(project / "artifacts/students")
    with started("train", "pipeline.yaml", "--processes", "2") as process:
        assert process.stderr is not None
        while not list((project / ".kdpipe/runs").glob("*/step-*/state.json")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in {0, 143}, errors
    if process.returncode == 143:
        assert errors.count("stopped after step") == 1
        capsys.readouterr()
        command(["train", "pipeline.yaml"])
        assert "continuing after step" in capsys.readouterr().err
    assert logged(project) == [pytest.approx(line, rel=1e-4, abs=1e-7) for line in alone]
    assert len(alone) == 6


def test_what_is_right_is_counted_over_all_processes(project: Path) -> None:
    train = {"tokens_per_batch": 64, "gradient_accumulation_steps": 2, "eval_steps": 4}
    train |= {"max_steps": 8, "learning_rate": 3e-2, "metric_for_best_model": "eval_f1"}
    model = {"kind": "recurrent", **SMALL}
    write(project, {"s": TOKEN | {"model": model, "train": TRAIN | train}})
    command(["tokenize", "p.yaml", "tags"])
    command(["train", "p.yaml"])
    alone = logged(project)
    shutil.rmtree(project / "artifacts/students")
    done = kdpipe("train", "p.yaml", "--processes", "2")
    assert done.returncode == 0, done.stderr
    assert logged(project) == [pytest.approx(line, rel=1e-4, abs=1e-7) for line in alone]
    assert 0.0 < alone[-1][-1] < 1.0


def test_an_idle_process_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready_to_train(project)
    monkeypatch.setattr(processes, "_here", [Group(rank=1, size=4)])
    place = open_project(Path("pipeline.yaml"))
    with pytest.raises(UsageError, match="4 processes share the batches of a step, which has 3: "):
        job.prepare(place, "s", *place.inputs("s"), "cpu")


def test_what_another_process_meets_is_told(project: Path) -> None:
    ready_to_train(project, learning_rate=1e30)
    done = kdpipe("train", "pipeline.yaml", "--processes", "2")
    assert done.returncode == 7, done.stderr
    assert done.stderr.count("kdpipe: error:") == 1, done.stderr
    assert "this is a bug" not in done.stderr
