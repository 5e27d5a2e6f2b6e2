"""What a report was measured of, by which one that is there is found to be up to date.

It is kept in the project beside what else is known locally, not in the report: a report that came
with the repository is measured anew, since its speed is that of another machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdpipe import artifact, io, records, versions
from kdpipe.errors import ArtifactError
from kdpipe.project import Project
from kdpipe.report import FILES


def made_from(project: Project, name: str, device: str) -> str:
    """Digest of all that decides what is measured of a finished student.

    Raises ArtifactError where a file of a task, or the teacher, is not there.
    """
    tasks, teacher = project.pipeline.tasks_of(name), project.teacher_of(name)
    files = sorted({path for task in tasks for path in task.files()})
    manifest = project.student_folder(name) / artifact.MANIFEST
    return io.identity(
        {
            "meaning": versions.EVALUATE,
            "student": io.digest_file(manifest, "sha256"),
            "teacher": None if teacher is None else teacher.identity,
            "tasks": [task.identity() for task in tasks],
            "files": [[path, io.digest_file(project.root / path)] for path in files],
            "device": device,
        }
    )


def is_current(project: Project, name: str, made: str) -> bool:
    """Whether the report and the student's card are those that were written of this."""
    try:
        told = records.read_sealed(_place(project, name))
    except (FileNotFoundError, ArtifactError):
        return False
    return told.get("made_from") == made and told.get("files") == _written(project, name)


def note(project: Project, name: str, made: str) -> None:
    """Remember of what the report was made that has just been written."""
    path = _place(project, name)
    io.make_folder(path.parent)
    io.sweep(path.parent)
    record: dict[str, Any] = {"made_from": made, "files": _written(project, name)}
    io.write_file(path, records.seal(io.canonical(record)))


def _place(project: Project, name: str) -> Path:
    return project.root / ".kdpipe" / "reports" / f"{name}.json"


def _written(project: Project, name: str) -> dict[str, str]:
    """Digests of what is there of the report and the card."""
    report, student = project.report_folder(name), project.student_folder(name)
    paths = [*(report / file for file in FILES), student / "README.md"]
    return {path.name: io.digest_file(path) for path in paths if path.is_file()}
