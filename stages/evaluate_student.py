"""Stage `evaluate`: measure a student beside its teacher and beside itself before training."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kdpipe import versions
from kdpipe.options import Device, Names, PipelineFile, StageVersion, expect_version

if TYPE_CHECKING:
    from kdpipe.project import Project


def evaluate(
    pipeline: PipelineFile,
    names: Names = None,
    device: Device = "auto",
    stage_version: StageVersion = None,
) -> None:
    """Measure quality and speed of a student: tables and a picture in reports/NAME.

    Without names: all students that have something to be measured by. What was measured of the
    same student in the same way is not measured again: remove reports/NAME where it should be.

    Example: kdpipe evaluate pipelines/demo.yaml small
    """
    from kdpipe import io
    from kdpipe.project import open_project
    from kdpipe.report import show_tables

    expect_version(stage_version, versions.EVALUATE)
    project = open_project(pipeline)
    chosen = project.pipeline.choose_students(names)
    chosen = [name for name in chosen if names or project.pipeline.tasks_of(name)]
    for name in chosen:
        whole = project.pipeline.trained_as(name)
        # It writes the student's card, and measures weights that must not change meanwhile.
        with io.lock(project.lock("student", whole), f"student {whole}"):
            _evaluate(project, name, device)
    if "KDPIPE_REPRO" not in os.environ:
        show_tables(project.root, chosen)


def _evaluate(project: Project, name: str, device: str) -> None:
    from kdpipe import io, made_from, measured
    from kdpipe.progress import say

    tasks, folder = project.pipeline.tasks_of(name), project.student_folder(name)
    made = made_from.open_student(project, name)
    of_this = measured.made_from(project, name, device)
    if measured.is_current(project, name, of_this):
        say(f"{project.report_folder(name)}: up to date")
        return

    from kdpipe import card
    from kdpipe import evaluate as evaluation
    from kdpipe.errors import ArtifactError
    from kdpipe.hub import read_json
    from kdpipe.subjects import held_out, subjects

    three, cache = subjects(project, name, made.corpus, made.caches, device)
    rows = held_out(made.corpus, cache)
    report = evaluation.evaluate(three, tasks, rows, project.root)
    made.corpus.mapped.refuse_changed()
    if cache is not None:
        cache.refuse_changed()
    if measured.made_from(project, name, device) != of_this:
        raise ArtifactError(
            f"what {name} is measured by was changed while it was read: run the same command again"
        )
    evaluation.write_report(report, project.report_folder(name))
    io.sweep(folder)
    card.write_card(folder, read_json(folder / "kdpipe.json"), table=evaluation.markdown(report))
    measured.note(project, name, of_this)
