"""Stage `plan`: what a pipeline file will cost, and whether its caches pay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kdpipe.options import Device, PipelineFile

if TYPE_CHECKING:
    from rich.table import Table

    from kdpipe.forecast import CacheForecast, CorpusForecast, StudentForecast
    from kdpipe.planning import Forecast

Seconds = Annotated[
    float, typer.Option("--seconds", min=0.0, help="How long to measure, about, for all together.")
]


def plan(pipeline: PipelineFile, device: Device = "auto", seconds: Seconds = 10.0) -> None:
    """Predict bytes, time and break-even of a pipeline file from a probe of some seconds.

    What is there already costs nothing. Text that is not tokenised yet is read once to count its
    rows; all that follows from a sample of them has a ~ before it. Nothing is made.

    A cache pays once reading it, in so many epochs of all students, and the teacher's pass together
    take less time than the same training with the teacher in its loop.

    Example: kdpipe plan pipelines/demo.yaml
    """
    from kdpipe import dry_run, forecast, planning, tables
    from kdpipe.device import pick_device
    from kdpipe.progress import human_bytes
    from kdpipe.project import open_project

    project, where = open_project(pipeline), pick_device(device)
    told = planning.forecast(project, where, seconds)
    tables.show(_corpora(told), _caches(told), _students(told))
    for cache in told.caches:
        verdict = forecast.verdict(cache, told.students)
        typer.echo(f"cache {cache.name}: {forecast.told(cache, verdict, _clock)}")
    for name, remedy in told.unknown.items():
        typer.echo(f"{name}: not known yet: {remedy}")
    stages = told.seconds
    each = ", ".join(f"{stage} {_clock(took)}" for stage, took in stages.items())
    size, free = human_bytes(told.bytes), human_bytes(dry_run.free_at(project.store.root))
    typer.echo(f"{each}: {_clock(sum(stages.values()))} in all on {where.type}")
    typer.echo(f"{size} to write, {free} free at {project.store.root}")


def _corpora(told: Forecast) -> Table:
    from kdpipe import tables

    return tables.table(
        ("corpus", "rows ", "tokens ", "bytes ", "tokenize "),
        (
            (one.name, *_counts(one, one.rows, one.tokens, one.bytes), _clock(one.seconds))
            for one in told.corpora
        ),
    )


def _caches(told: Forecast) -> Table:
    from kdpipe import tables

    rows = list[tuple[str, ...]]()
    for one in told.caches:
        blocks = f"{_counts(one, one.blocks)[0]} of {one.of_blocks:,}"
        for place, (question, size) in enumerate(one.bytes.items()):
            first = ("", "", "") if place else (one.name, blocks, _clock(one.whole_seconds))
            rows.append((*first[:2], question, *_counts(one, size), first[2]))
        if len(one.bytes) > 1:
            rows.append(("", "", "all", *_counts(one, sum(one.bytes.values())), ""))
    columns = ("cache", "blocks to do ", "question", "bytes to write ", "teacher's pass ")
    return tables.table(columns, rows)


def _students(told: Forecast) -> Table:
    from kdpipe import tables

    return tables.table(
        ("student", "steps ", "epochs ", "an epoch ", "train ", "with its teachers in the loop "),
        (
            (
                one.name,
                *_counts(one, round(one.steps)),
                f"{one.epochs:.3g}",
                *map(_clock, (one.epoch_seconds, one.seconds, one.with_teachers)),
            )
            for one in told.students
        ),
    )


def _counts(one: CorpusForecast | CacheForecast | StudentForecast, *counts: int) -> list[str]:
    return [f"{'' if one.exact else '~'}{count:,}" for count in counts]


def _clock(seconds: float) -> str:
    from kdpipe.progress import clock_tenths, clock_time

    return clock_tenths(seconds) if seconds < 60 else clock_time(seconds)
