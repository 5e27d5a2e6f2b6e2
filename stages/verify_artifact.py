"""Stage `verify`: whether artifacts are what they were when they were made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATHS", help="Folders of artifacts, or folders that have some below."),
]


def verify(paths: Paths) -> None:
    """Read artifacts from end to end, and all that they were made from, back to the text.

    Every file is held against its digest and against what the manifest says of its content, every
    manifest against the one that names it. All that is wrong is listed; then the exit code is 3.

    Example: kdpipe verify artifacts/students/small
    """
    from kdpipe.errors import ArtifactError
    from kdpipe.progress import counted
    from kdpipe.verify import verify as verdicts

    # All at the end, since a bar and results might share a terminal.
    seen = [*verdicts(paths)]
    for one in seen:
        typer.echo(one.line)
        for problem in one.problems:
            typer.echo(f"  {problem}")
        for what in one.unchecked:
            typer.echo(f"  not here, so not checked: {what}")
    bad = [one for one in seen if one.problems]
    if bad:
        mistakes = counted(sum(len(one.problems) for one in bad), "mistake")
        raise ArtifactError(
            f"{mistakes} in {len(bad):,} of {counted(len(seen), 'artifact')}: each line above says"
            " what to do"
        )
