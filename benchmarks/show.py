"""The figures of all results, as a table in Markdown, and of this machine's as a picture.

    python -m benchmarks.show docs/pictures/performance.svg

A bar says how far a figure is beyond its aim: at 1 it is reached, to the right it is better.
"""

from __future__ import annotations

import json
import re
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
    machines = sorted(path for path in (ROOT / "results").iterdir() if path.is_dir())
    found = {path.name: figures(path) for path in machines}
    names = [name for name in found if name != slug()]
    here = found.get(slug(), {})
    print(f"| benchmark | what | aim | {' | '.join([slug(), *names])} |")
    print(f"|---|---|---:|{'---:|' * (1 + len(names))}")
    for key in dict.fromkeys(key for some in (here, *found.values()) for key in some):
        told = [found.get(name, {}).get(key) for name in (slug(), *names)]
        one = next(filter(None, told))
        print(f"| `{key[0]}` | {key[1]} | {aim(one)} | {' | '.join(map(cell, told))} |")
    draw([(name, one) for (name, _), one in here.items()], Path(sys.argv[1]))


def figures(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Those with an aim, by benchmark and what they are about, without what differs in brackets."""
    return {
        (path.stem, re.sub(r" \(.*?\)", "", one["what"])): one
        for path in sorted(folder.glob("*.json"))
        for one in json.loads(path.read_text("utf-8"))["figures"]
        if one["reached"] is not None
    }


def cell(one: dict[str, Any] | None) -> str:
    """A figure as it was measured, in bold where its aim is not reached."""
    if one is None:
        return ""
    told = shown(one["value"], one["unit"])
    return told if one["reached"] else f"**{told}**"


def aim(one: dict[str, Any]) -> str:
    """Of a figure."""
    least = one["least"] is not None
    number = shown(one["least"] if least else one["most"], "")
    return f"{'at least' if least else 'at most'} {number}"


def shown(value: float, unit: str) -> str:
    """A number for people."""
    number = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{number} {unit}".strip()


def draw(figures: list[tuple[str, dict[str, Any]]], path: Path) -> None:
    """A bar for each figure with an aim."""
    beyond = [
        one["value"] / one["least"]
        if one["least"] is not None
        else one["most"] / max(one["value"], 1e-6 * one["most"])
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
        axes.set_xlim(0.3, 1.4 * MOST)
        axes.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
        axes.minorticks_off()
        axes.margins(y=0.01)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title("Measured, in terms of the aim (1: reached)", loc="left", weight="bold")
        picture.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
