"""Stage `train`: a student learns from caches."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kdpipe import versions
from kdpipe.options import Device, Names, PipelineFile, StageVersion, expect_version

if TYPE_CHECKING:
    from kdpipe.project import Project


def train(
    pipeline: PipelineFile,
    names: Names = None,
    device: Device = "auto",
    stage_version: StageVersion = None,
) -> None:
    """Train a student from what its caches hold: a loadable model in artifacts/students/NAME.

    A run that was stopped continues from its last checkpoint, with the same result.

    Example: kdpipe train pipelines/demo.yaml small
    """
    from kdpipe.pipeline import choose
    from kdpipe.project import open_project

    expect_version(stage_version, versions.TRAIN)
    project = open_project(pipeline)
    for name in choose(project.pipeline.students, names, "student"):
        _train(project, name, device)


def _train(project: Project, name: str, device: str) -> None:
    from kdpipe import artifact, io, job, write_student
    from kdpipe.progress import say

    spec, folder = project.pipeline.students[name], project.student_folder(name)
    corpus, caches = project.inputs(name)
    inputs = {
        "meaning": str(versions.TRAIN),
        "corpus": corpus.digest,
        **{f"cache.{key}": cache.digest for key, cache in caches.items()},
        **spec.model.inputs(project.root),
    }
    identity = write_student.student_identity(spec)
    with io.lock(project.lock("student", name), f"student {name}"):
        if artifact.is_current(folder, write_student.KIND, identity, inputs):
            say(f"{folder}: up to date")
            return
        work = job.prepare(project, name, corpus, caches, device)
        runs = project.root / ".kdpipe" / "runs" / io.identity([identity, inputs])[:32]
        stopped = job.carry_out(work, runs)
        if stopped is not None:
            say(f"stopped after step {work.run.progress.step}: the same command continues there")
            os.kill(os.getpid(), stopped)
        write_student.write_student(project, name, work, inputs)
        io.remove(runs)
    best = work.run.progress
    measured = ", ".join(f"{key} {value:.4f}" for key, value in best.best.items())
    say(f"{folder}: best at step {best.best_step} of {best.step} ({measured or 'not measured'})")
