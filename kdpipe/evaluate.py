"""Teacher, untrained student and student under the same tasks, and the files that tell of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdpipe import io
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.plots import report_picture
from kdpipe.report import METRICS, PICTURE, ROLES, SPEED, TABLE, Report, markdown_table, rounded
from kdpipe.speed import measure
from kdpipe.tasks import Agreement, Fidelity, Task
from kdpipe.tasks.subject import HeldOut, Subject


def evaluate(
    subjects: Sequence[Subject],
    tasks: Sequence[Task],
    held_out: HeldOut,
    root: Path,
    seconds: float = 20.0,
) -> Report:
    """Measure teacher, if any, untrained and trained student; `seconds` go to their speed.

    Raises:
        UsageError: no task, two that would write the same metric, or one that the student's head
            does not fit.
        ArtifactError: no held-out rows, or a file of a task is missing or wrong.
        NonFiniteError: a model gives NaN or Inf.
    """
    # What people judged comes before what the teacher says.
    ordered = sorted(tasks, key=lambda task: isinstance(task, Fidelity | Agreement))
    mains = _mains(ordered)
    if len(held_out.tokens) == 0:
        raise ArtifactError(
            "the corpus has no held-out rows to measure on: raise 'validation' of the corpus"
        )
    roles = ROLES[-len(subjects) :]
    quality: dict[str, dict[str, float]] = {}
    for role, subject in zip(roles, subjects, strict=True):
        scores = [task.score(subject, held_out, root).items() for task in ordered]
        quality[role] = {key: rounded(value) for items in scores for key, value in items}
    for main in mains:
        if main not in quality["student"]:
            raise UsageError(
                f"{subjects[-1].name} has no {main}: the task is about another head than the"
                " student's: take it out of 'evaluate'"
            )
    speed = dict(zip(roles, measure(subjects, held_out, seconds), strict=True))
    names = {role: subject.name for role, subject in zip(roles, subjects, strict=True)}
    return Report(names, quality, speed, mains)


def write_report(report: Report, folder: Path) -> None:
    """Write `metrics.json`, `speed.json`, `table.tsv` and `report.svg`.

    Nothing in `metrics.json` depends on a clock: the same models give the same bytes.
    """
    io.make_folder(folder)
    io.sweep(folder)
    sizes = {
        key: {role: getattr(speed, key) for role, speed in report.speed.items()}
        for key in ("parameters", "bytes")
    }
    metrics = report.quality | {"share": report.share("student")} | sizes
    speed = {
        role: {key: _brief(value) for key, value in asdict(speed).items()}
        for role, speed in report.speed.items()
    }
    rows = table(report)
    lines = [list(rows[0]), *([*row.values()] for row in rows)]
    io.write_file(folder / METRICS, _json(metrics))
    io.write_file(folder / SPEED, _json(speed))
    io.write_file(folder / TABLE, "".join("\t".join(line) + "\n" for line in lines).encode())
    io.write_file(folder / PICTURE, report_picture(report))


def table(report: Report) -> list[dict[str, str]]:
    """One row for each model, as `table.tsv` has them; a value that there is not is empty."""
    rows = []
    for role in report.quality:
        quality, speed = report.quality[role], report.speed[role]
        share = report.share(role).get(report.mains[0])
        rows.append(
            {"model": report.names[role], "role": role}
            | {
                metric: f"{quality[metric]:.4f}" if metric in quality else ""
                for metric in report.mains
            }
            | {
                "share_of_teacher": "" if share is None else f"{share:.4f}",
                "parameters": str(speed.parameters),
                "megabytes": f"{speed.bytes / 1e6:.3f}",
                "sentences_per_second": f"{speed.rows_per_second:.1f}",
                "speed_up": f"{speed.speed_up:.2f}",
                "latency_p50_ms": f"{speed.latency_p50_ms:.3f}",
                "latency_p95_ms": f"{speed.latency_p95_ms:.3f}",
            }
        )
    return rows


def markdown(report: Report) -> str:
    """The table in Markdown, for the model card of the student."""
    return markdown_table(table(report))


def _mains(tasks: Sequence[Task]) -> tuple[str, ...]:
    """The main metric of each task."""
    mains = tuple(task.main for task in tasks)
    if not mains:
        raise UsageError(
            "there is no task to measure by: add one to 'evaluate', such as {kind: fidelity}, or"
            " {kind: classification} for a head"
        )
    for main in mains:
        if mains.count(main) > 1:
            raise UsageError(f"two tasks of 'evaluate' give {main}: give each a 'name' of its own")
    return mains


def _brief(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"
