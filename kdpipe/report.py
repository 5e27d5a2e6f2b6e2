"""What a report is, and reports as people read them: several students in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdpipe.errors import ArtifactError

if TYPE_CHECKING:
    from rich.console import Console

    from kdpipe.speed import Speed

ROLES = ("teacher", "untrained", "student")
TABLE, PICTURE = "table.tsv", "report.svg"
"""Files of a report that people are shown."""
METRICS, SPEED = "metrics.json", "speed.json"
"""Those that programs read."""
FILES = (METRICS, SPEED, TABLE, PICTURE)
DIGITS = 6
"""Of every metric that is kept."""
LOWER = {"perplexity"}
"""Metrics of which less is better; their inverse is what is compared."""
Row = dict[str, str]

_FIRST = ["model", "role"]
"""The columns before the metrics."""
_NUMBERS = ["share_of_teacher", "parameters", "megabytes", "sentences_per_second", "speed_up"]
"""The columns after the metrics that people are shown."""


@dataclass(frozen=True)
class Report:
    """What was measured; the first keys are ROLES, without a teacher the last two of them."""

    names: dict[str, str]
    """What each is called."""
    quality: dict[str, dict[str, float]]
    """Role -> metric -> value, rounded to DIGITS."""
    speed: dict[str, Speed]
    mains: tuple[str, ...]
    """The metric that stands for each task; the first one, the headline, for them all."""

    def share(self, role: str) -> dict[str, float]:
        """Metric -> share of the teacher's value; only where the teacher's is above 0."""
        teacher = self.quality.get("teacher", {})
        return {
            metric: rounded(teacher[metric] / value if metric in LOWER else value / teacher[metric])
            for metric, value in self.quality[role].items()
            if teacher.get(metric, 0.0) > 0
        }

    def rising(self, role: str) -> dict[str, float]:
        """Metric -> value, the more the better: `1 / perplexity` in place of `perplexity`."""
        found: dict[str, float] = {}
        for metric, value in self.quality[role].items():
            found |= {f"1 / {metric}": 1.0 / value} if metric in LOWER else {metric: value}
        return found

    @property
    def rising_main(self) -> str:
        """The headline as `rising` has it."""
        return f"1 / {self.mains[0]}" if self.mains[0] in LOWER else self.mains[0]


def rounded(value: float) -> float:
    """A metric as it is kept: DIGITS digits after the point."""
    # Adding 0.0 makes 0.0 of -0.0, which would be other bytes for the same number.
    return round(value, DIGITS) + 0.0


def comparison(root: Path, students: Sequence[str]) -> list[Row]:
    """The rows of the students' tables; a teacher that several share comes once for each headline.

    Raises:
        ArtifactError: a student was not evaluated, or its table is damaged.
    """
    rows: list[Row] = []
    for student in students:
        for row in _read(root / "reports" / student / TABLE):
            known = [_identity(other) for other in rows]
            if row["role"] != "teacher" or _identity(row) not in known:
                rows.append(row)
    return rows


def show_tables(root: Path, students: Sequence[str], console: Console | None = None) -> None:
    """Print one table for each headline metric, and where models and pictures are.

    Raises:
        ArtifactError: a student was not evaluated, or its table is damaged.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    groups: dict[str, list[str]] = {}
    for student in students:
        metric = _headline(comparison(root, [student])[0])
        groups.setdefault(metric, []).append(student)
    for metric, group in groups.items():
        rows = comparison(root, group)
        titles, cells = _cells(rows)
        # All columns fit 80 characters, so that no log breaks them.
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for index, title in enumerate(titles):
            header = "quality" if title == metric else title.replace(" ", "\n", 1)
            side: Literal["left", "right"] = "right" if index else "left"
            table.add_column(header, justify=side, no_wrap=index > 0, overflow="fold")
        for row, line in zip(rows, cells, strict=True):
            table.add_row(*line, style="bold" if row["role"] == "student" else None)
        console.print(f"[bold]Quality ({metric}) and speed[/bold]", highlight=False)
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
    titles = [
        "model",
        *headlines,
        "of teacher",
        "parameters",
        "size",
        "sentences per second",
        "speed-up",
    ]
    lines = []
    for row in rows:
        share = row["share_of_teacher"]
        lines.append(
            [
                row["model"],
                *(row.get(metric, "") for metric in headlines),
                f"{100 * float(share):.1f} %" if share else "",
                _millions(float(row["parameters"])),
                _megabytes(float(row["megabytes"])),
                f"{float(row['sentences_per_second']):,.0f}",
                f"{float(row['speed_up']):.1f}x",
            ]
        )
    return titles, lines


def _headline(row: Row) -> str:
    """The first metric, which stands after the columns that all tables begin with."""
    return [*row][len(_FIRST)]


def _identity(row: Row) -> tuple[str, str]:
    return row["model"], _headline(row)


def _millions(count: float) -> str:
    millions = count / 1e6
    return f"{millions:,.0f} M" if millions >= 100 else f"{millions:.3g} M"


def _megabytes(value: float) -> str:
    return f"{value:,.0f} MB" if value >= 10 else f"{value:.2g} MB"


def _read(path: Path) -> list[Row]:
    try:
        header, *lines = path.read_text("utf-8").splitlines()
        names = header.split("\t")
        rows = [dict(zip(names, line.split("\t"), strict=True)) for line in lines]
        after = names.index(_NUMBERS[0])
        sound = names[: len(_FIRST)] == _FIRST and names[after : after + len(_NUMBERS)] == _NUMBERS
        numbers = [float(row[name] or 0) for row in rows for name in _NUMBERS]
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist: run 'kdpipe evaluate'") from None
    except (ValueError, KeyError):
        sound = False
    if not (sound and numbers and after > len(_FIRST)):
        raise ArtifactError(f"{path} is damaged: delete it and run 'kdpipe evaluate'")
    return rows
