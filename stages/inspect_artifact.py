"""Stage `inspect`: what is in a folder or a file of kdpipe's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Place = Annotated[
    Path,
    typer.Argument(
        metavar="PATH", help="The folder of an artifact or a checkpoint, or a file in one."
    ),
]


def inspect(path: Place) -> None:
    """Show what an artifact is, from what it was made, how large it is and how healthy it looks.

    Of a cache the norms of vectors in some of its blocks are shown, of a corpus how often there is
    which label. A shard, a block and a receipt can be looked at alone.

    Example: kdpipe inspect artifacts/caches/docs-minilm
    """
    from kdpipe import inspection, tables

    page = inspection.inspect(path)
    shown = [tables.facts(page.facts)]
    if page.rows:
        shown.append(tables.table(page.columns, page.rows))
    tables.show(*shown)
