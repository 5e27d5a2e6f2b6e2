"""Tables on a terminal or in a log: what cells say is shown as it is, never read as markup."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """Cells under columns; those of a column whose name ends in a blank stand to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    made.title = None if title is None else Text(title)
    for name in columns:
        right = name.endswith(" ")
        made.add_column(name.strip(), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Names and what stands for them, a line each."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(Text(name, "bold"), Text(value))
    return grid


def show(*tables: Table) -> None:
    """Print them on stdout."""
    from rich.console import Console

    # A log has no width of its own: no cell should be broken there.
    console = Console(width=None if sys.stdout.isatty() else 160)
    for one in tables:
        console.print(one)
