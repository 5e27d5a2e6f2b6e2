"""Reports as people read them: what `evaluate` wrote for several students, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe.errors import ArtifactError

if TYPE_CHECKING:
    from rich.console import Console

TABLE, PICTURE = "table.tsv", "report.svg"
"""Files of a report that people are shown."""
Row = dict[str, str]

_FIRST, _AFTER_METRICS = ("model", "role"), "share_of_teacher"
_NEEDED = {*_FIRST, _AFTER_METRICS, "parameters", "megabytes", "sentences_per_second", "speed_up"}


def comparison(root: Path, students: Sequence[str]) -> list[Row]:
    """The rows of the students' tables; a teacher that several share comes once.

    Raises:
        ArtifactError: a student was not evaluated, or its table is damaged.
    """
    rows: list[Row] = []
    for student in students:
        for row in _read(root / "reports" / student / TABLE):
            known = [other["model"] for other in rows if other["role"] == "teacher"]
            if row["role"] != "teacher" or row["model"] not in known:
                rows.append(row)
    return rows


def show_tables(root: Path, students: Sequence[str], console: Console | None = None) -> None:
    """Print the comparison of students, and where the model and the picture of each are."""
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    rows = comparison(root, students)
    titles, cells = _cells(rows)
    table = Table(title="Quality and speed", title_justify="left", title_style="bold")
    for index, title in enumerate(titles):
        table.add_column(title, justify="right" if index else "left", no_wrap=index > 0)
    for row, line in zip(rows, cells, strict=True):
        starts_group = row["role"] == "teacher" or row is rows[0]
        table.add_row(
            *line,
            style="bold" if row["role"] == "student" else None,
            end_section=starts_group or row["role"] == "student",
        )
    console.print(table)
    for student in students:
        console.print(f"{student}:", style="bold", highlight=False)
        places = {
            "model": root / "artifacts" / "students" / student,
            "picture": root / "reports" / student / PICTURE,
        }
        for what, path in places.items():
            console.print(f"  {what:8} {path}", highlight=False, markup=False, soft_wrap=True)


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows of a table, or of `comparison`, in Markdown."""
    titles, cells = _cells(rows)
    rule = ["---" if index == 0 else "---:" for index in range(len(titles))]
    return "".join(f"| {' | '.join(line)} |\n" for line in [titles, rule, *cells])


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles, and the values of each row in words for people."""
    headlines = list(dict.fromkeys(_headline(row) for row in rows))
    titles = ["model", *headlines, "of teacher", "parameters", "size", "sentences/s", "speed-up"]
    lines = []
    for row in rows:
        share = row[_AFTER_METRICS]
        lines.append(
            [
                row["model"],
                *(row.get(metric, "") for metric in headlines),
                f"{100 * float(share):.1f} %" if share else "",
                _millions(float(row["parameters"])),
                _short(float(row["megabytes"])) + " MB",
                f"{float(row['sentences_per_second']):,.0f}",
                f"{float(row['speed_up']):.1f}x",
            ]
        )
    return titles, lines


def _headline(row: Row) -> str:
    """The first metric, which stands after the columns that all tables begin with."""
    return [*row][len(_FIRST)]


def _millions(count: float) -> str:
    return f"{_short(count / 1e6)} M" if count >= 1e5 else f"{_short(count / 1e3)} K"


def _short(value: float) -> str:
    """Three digits, as many as people compare."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _read(path: Path) -> list[Row]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist: run 'kdpipe evaluate'") from None
    cells = [line.split("\t") for line in lines]
    header = cells[0] if cells else []
    if len(cells) < 2 or not set(header) >= _NEEDED or {len(line) for line in cells} != {len(header)}:
        raise ArtifactError(f"{path} is damaged: delete it and run 'kdpipe evaluate'")
    return [dict(zip(header, line, strict=True)) for line in cells[1:]]
