"""Stage `train`: a student learns from caches, or several that share a body do so in turn."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kdpipe import versions
from kdpipe.options import (
    Device,
    Names,
    PipelineFile,
    Processes,
    StageVersion,
    expect_version,
)

if TYPE_CHECKING:
    from pathlib import Path

    from kdpipe.job import Job
    from kdpipe.made_from import Asked
    from kdpipe.project import Project


def train(
    pipeline: PipelineFile,
    names: Names = None,
    device: Device = "auto",
    processes: Processes = 1,
    stage_version: StageVersion = None,
) -> None:
    """Train a student from what its caches hold: a loadable model in artifacts/students/NAME.

    A run that was stopped continues from its last checkpoint, with the same result. Students that
    share a body are trained together, whichever of them is named.

    Example: kdpipe train pipelines/demo.yaml small
    """
    from kdpipe.errors import ArtifactError, UsageError
    from kdpipe.freed_memory import keep_freed
    from kdpipe.processes import share_among, together
    from kdpipe.project import open_project

    expect_version(stage_version, versions.TRAIN)
    project = open_project(pipeline)
    known = project.pipeline
    chosen = dict.fromkeys(map(known.trained_as, known.choose_students(names)))
    share_among(processes)
    keep_freed()
    with together():
        for whole in chosen:
            try:
                _train(project, whole, device)
            except (ArtifactError, UsageError) as error:
                if len(chosen) == 1:
                    raise
                what = "body" if whole in known.bodies else "student"
                raise type(error)(f"{what} {whole}: {error}") from error


def _train(project: Project, whole: str, device: str) -> None:
    from kdpipe import artifact, io, made_from
    from kdpipe.processes import here
    from kdpipe.progress import say

    asked = made_from.asked(project, whole)
    key = io.identity([some[:2] for some in asked.values()])[:32]
    runs = project.root / ".kdpipe" / "runs" / key
    with here().lock(project.lock("student", whole), f"student {whole}"):
        if all(
            artifact.is_current(project.student_folder(name), made_from.KIND, *some[:2])
            for name, some in asked.items()
        ):
            for name in asked:
                say(f"{project.student_folder(name)}: up to date")
            if here().leads:
                io.remove(runs)
            return
        jobs = _trained(project, whole, asked, runs, device)
        if here().leads:
            from kdpipe.write_student import write_student

            for name, job in jobs.items():
                write_student(project, name, job, asked[name].inputs)
            io.remove(runs)
    for name, job in jobs.items():
        best = job.run.progress
        measured = ", ".join(f"{key} {value:.4f}" for key, value in best.best.items())
        say(
            f"{project.student_folder(name)}: best at step {best.best_step} of {best.step}"
            f" ({measured or 'not measured'})"
        )


def _trained(
    project: Project, whole: str, asked: dict[str, Asked], runs: Path, device: str
) -> dict[str, Job]:
    """All students at the end of their training; ends the process where a signal stopped it."""
    from kdpipe import job, made_from
    from kdpipe.errors import ArtifactError
    from kdpipe.progress import say

    def unchanged() -> None:
        if made_from.asked(project, whole) != asked:
            raise ArtifactError(
                f"what {whole} learns from was changed while it was read: run the same command"
                " again"
            )

    if whole in project.pipeline.bodies:
        inputs = {name: (some.corpus, some.caches) for name, some in asked.items()}
        several = job.prepare_together(project, whole, inputs, device)
        unchanged()
        stopped = job.carry_out_together(several, runs)
        jobs = several.apart()
    else:
        one = job.prepare(project, whole, asked[whole].corpus, asked[whole].caches, device)
        unchanged()
        jobs, stopped = {whole: one}, job.carry_out(one, runs)
    if stopped is not None:
        step = jobs[next(iter(jobs))].run.progress.step
        say(f"stopped after step {step}: the same command continues there")
        os.kill(os.getpid(), stopped)
        raise SystemExit(128 + stopped)  # what is not trained to its end is no student
    return jobs
