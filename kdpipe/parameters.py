"""How many parameters each module of a model has."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn


class Row(NamedTuple):
    """A module and all that is in it."""

    name: str
    """As `named_modules` has it; empty for the whole model."""
    parameters: int
    share: float
    """Of all parameters, from 0 to 1."""
    trainable: int
    """How many of them get a gradient."""


def parameter_table(module: nn.Module, depth: int = 2) -> list[Row]:
    """The whole model, then its modules down to `depth` names (0: none), each before its parts.

    A weight that modules share counts in the first of them; a module that has no other is left out.
    """
    counts: dict[str, list[int]] = {"": [0, 0]}
    for name, parameter in module.named_parameters():
        parts = name.split(".")[:-1]
        for length in range(min(len(parts), depth) + 1):
            count = counts.setdefault(".".join(parts[:length]), [0, 0])
            count[0] += parameter.numel()
            count[1] += parameter.numel() * parameter.requires_grad
    total = max(counts[""][0], 1)
    return [Row(name, count, count / total, learn) for name, (count, learn) in counts.items()]


def as_table(rows: list[Row]) -> Table:
    """The rows for `rich.print`, parts indented below the module that they are part of."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("module", overflow="fold")
    for title in ("parameters", "share", "trainable"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        last = row.name.rpartition(".")[2]
        indent = "  " * (row.name.count(".") + 1) if row.name else ""
        cells = (f"{row.parameters:,}", f"{100 * row.share:.1f} %", f"{row.trainable:,}")
        table.add_row(f"{indent}{last or 'all'}", *cells, style=None if row.name else "bold")
    return table
