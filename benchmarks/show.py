"""The figures of this machine's results, as a table in Markdown and as a picture.

    python -m benchmarks.show docs/pictures/performance.svg

A bar says how far a figure is beyond its aim: at 1 it is reached, to the right it is better.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.kit import ROOT, slug

COLORS = {True: "#0072b2", False: "#e69f00"}
"""Reached or not: told apart by the colour-blind too, and in grey."""

MOST = 5.0
"""Bars end here, and say how long they would be."""


def main() -> None:
    """Print the table of what has an aim, and draw it."""
    found = sorted((ROOT / "results" / slug()).glob("*.json"))
    figures = [
        (path.stem, one) for path in found for one in json.loads(path.read_text("utf-8"))["figures"]
    ]
    print("| benchmark | what | measured | aim | |\n|---|---|---:|---:|---|")
    for name, one in (pair for pair in figures if pair[1]["reached"] is not None):
        print(f"| `{name}` | {one['what']} | {shown(one['value'], one['unit'])} | {aim(one)} |")
    draw([pair for pair in figures if pair[1]["reached"] is not None], Path(sys.argv[1]))


def aim(one: dict[str, Any]) -> str:
    """Of a figure, and whether it is reached."""
    least = one["least"] is not None
    number = shown(one["least"] if least else one["most"], "")
    reached = "yes" if one["reached"] else "**no**"
    return f"{'at least' if least else 'at most'} {number} | {reached}"


def shown(value: float, unit: str) -> str:
    """A number for people."""
    number = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{number} {unit}".strip()


def draw(figures: list[tuple[str, dict[str, Any]]], path: Path) -> None:
    """A bar for each figure with an aim."""
    beyond = [
        one["value"] / one["least"] if one["least"] is not None else one["most"] / one["value"]
        for _, one in figures
    ]
    names = [f"{name}: {one['what']}" for name, one in figures]
    style: dict[Any, Any] = {"svg.hashsalt": "kdpipe", "svg.fonttype": "path", "font.size": 8.0}
    with rc_context(style):
        picture = Figure(figsize=(9, 0.24 * len(figures) + 0.9), layout="constrained")
        axes = picture.add_subplot()
        colors = [COLORS[one["reached"]] for _, one in figures]
        lengths = [min(value, MOST) - 1 for value in beyond]
        axes.barh(names, lengths, left=1, color=colors, height=0.6)
        for place, value in enumerate(beyond):
            away = 3 if value >= 1 else -3
            axes.annotate(
                f"{value:.3g}",
                (min(value, MOST), place),
                (away, 0),
                textcoords="offset points",
                va="center",
                ha="left" if value >= 1 else "right",
            )
        axes.axvline(1, color="#222222", linewidth=1)
        axes.set_xscale("log")
        axes.invert_yaxis()
        axes.set_xlim(0.4, 1.4 * MOST)
        axes.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
        axes.minorticks_off()
        axes.margins(y=0.01)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title("Measured, in terms of the aim (1: reached)", loc="left", weight="bold")
        picture.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
