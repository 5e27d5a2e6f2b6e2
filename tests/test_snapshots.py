"""Students as they were at saves: loadable folders that are part of the finished student."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel

from kdpipe import artifact, checkpoint, job, made_from, predict, train, write_student
from kdpipe.errors import ArtifactError
from kdpipe.job import Job
from kdpipe.pipeline import StudentSpec
from kdpipe.sources import Row
from kdpipe.train_spec import TrainSpec
from tests.pieces import new_project, sentences
from tests.runs import new_job, same, state, student

pytestmark = pytest.mark.usefixtures("small_blocks")

SHAPE = {"kind": "shape", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
FOLDER = Path("artifacts/students/s")


def finished(root: Path, spec: dict[str, Any]) -> Job:
    """Trained and written."""
    work = new_job(root, spec)
    assert job.carry_out(work, root / "runs") is None
    place = new_project(root, sentences(80), students={"s": spec})
    write_student.write_student(place, "s", work, {})
    return work


def snapshots() -> list[str]:
    return sorted(path.name for path in FOLDER.glob("checkpoint-*"))


def of_model(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "student.model."
    return {key.removeprefix(prefix): w for key, w in weights.items() if key.startswith(prefix)}


def test_the_last_saves_are_models_like_the_student_itself(project: Path) -> None:
    spec = student(model=SHAPE | {"intermediate_size": 8}, save_steps=4, save_total_limit=2)
    watched, seen = new_job(project, spec), {}
    for step in train.fit(watched.run):
        seen[step.number] = of_model(state(watched))
    finished(project, spec)
    assert snapshots() == ["checkpoint-12", "checkpoint-8"]
    for number in (8, 12):
        folder = FOLDER / f"checkpoint-{number}"
        found = load_file(folder / "model.safetensors")
        assert same(found, seen[number])
        assert AutoModel.from_pretrained(folder).config.hidden_size == 16
        # The dense layer to the teacher's width is part of what loads.
        subject = predict.open_subject(folder, "cpu")
        assert predict.embeddings(subject, [Row("The cat sleeps.")]).shape == (1, 32)
    manifest, _ = artifact.open_finished(FOLDER, made_from.KIND, "")
    listed = {file.name for file in manifest.files}
    there = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert listed == there - {"manifest.json", "README.md"}
    assert "checkpoint-8/2_Dense/model.safetensors" in listed
    for file in manifest.files:
        artifact.check(FOLDER, file, "")


def test_another_student_starts_from_one(project: Path) -> None:
    finished(project, student(save_steps=4, save_total_limit=2))
    model = {"kind": "checkpoint", "model": str(FOLDER / "checkpoint-8")}
    work = new_job(project, student(model=model))
    found = load_file(FOLDER / "checkpoint-8" / "model.safetensors")
    assert same(of_model(state(work)), found)
    missing = str(FOLDER / "checkpoint-7")
    with pytest.raises(ArtifactError) as caught:
        new_job(project, student(model=model | {"model": missing}))
    assert str(caught.value) == (
        f"{missing} is not made yet: run 'kdpipe train' for 's' (made are: s)"
    )


def test_a_run_that_continues_keeps_the_same(project: Path) -> None:
    spec = student(save_steps=3, save_total_limit=3)
    finished(project, spec)
    wanted = (FOLDER / "manifest.json").read_bytes()
    assert snapshots() == ["checkpoint-12", "checkpoint-6", "checkpoint-9"]
    shutil.rmtree(FOLDER)
    # As it is after a kill while the last one was written.
    shutil.rmtree(project / "runs" / "step-00000012")
    (project / "runs" / "checkpoint-12" / "model.safetensors").write_bytes(b"cut")
    finished(project, spec)
    assert (FOLDER / "manifest.json").read_bytes() == wanted


def test_how_many_are_kept(project: Path) -> None:
    finished(project, student(save_steps=0.25, save_total_limit=None))
    assert snapshots() == ["checkpoint-12", "checkpoint-3", "checkpoint-6", "checkpoint-9"]
    shutil.rmtree(project / "runs")
    finished(project, student(save_steps=5, save_total_limit=7))
    assert snapshots() == ["checkpoint-10", "checkpoint-5"]
    shutil.rmtree(project / "runs")
    finished(project, student(save_steps=2))
    assert snapshots() == []
    assert not list((project / "runs").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("save_steps", "total", "steps"),
    [(500, 100, 500), (0.1, 30, 3), (0.07, 100, 7), (0.07, 101, 8), (0.5, 1, 1)],
)
def test_steps_from_one_save_to_the_next(save_steps: float, total: int, steps: int) -> None:
    assert checkpoint.steps_between(TrainSpec(save_steps=save_steps), total) == steps


@pytest.mark.parametrize("save_steps", [0, 1.5, -1])
def test_other_save_steps_are_refused(save_steps: float) -> None:
    with pytest.raises(ValidationError):
        TrainSpec(save_steps=save_steps)


@pytest.mark.parametrize(("limit", "told"), [(1, False), (2, True), (None, True)])
def test_how_often_is_saved_decides_what_is_made_where_it_is_kept(
    limit: int | None, told: bool
) -> None:
    spec = StudentSpec.model_validate(student(save_steps=40, save_total_limit=limit))
    identity = made_from.student_identity(spec)
    assert ("save_steps" in identity["train"]) == told
    assert json.loads(json.dumps(identity))["train"]["save_total_limit"] == limit
