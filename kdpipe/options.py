"""The arguments and options that stages share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdpipe.errors import UsageError

PipelineFile = Annotated[
    Path,
    typer.Argument(metavar="PIPELINE", help="The pipeline file.", show_default=False),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAMES", help="Which entries of its section; none: all.", show_default=False
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", envvar="KDPIPE_DEVICE", help="auto, cpu, cuda, cuda:1 or mps."),
]
Processes = Annotated[
    int,
    typer.Option("--processes", envvar="KDPIPE_PROCESSES", min=1, help="One for each GPU."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
StageVersion = Annotated[int | None, typer.Option("--stage-version", hidden=True)]
"""Written into dvc.yaml, so that a new version of a stage changes its command."""


def expect_version(given: int | None, current: int) -> None:
    """Refuse to make what dvc.yaml does not ask for; raises UsageError."""
    if given not in {None, current}:
        raise UsageError(
            f"this dvc.yaml was written for version {given} of this stage, this kdpipe makes"
            f" version {current}: run 'kdpipe repro', which rewrites it"
        )
