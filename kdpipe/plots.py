"""Pictures of a training and of a report, as SVG: the same numbers give the same bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kdpipe.report import Report

COLORS = {"teacher": "#4d4d4d", "untrained": "#e69f00", "student": "#0072b2"}
"""Told apart by the colour-blind too (Okabe and Ito), and in grey."""
_INK, _SUBTLE, _GRID = "#222222", "#6b6b6b", "#e3e3e3"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "kdpipe",
    # Letters as outlines look the same wherever the picture is shown.
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.12,
    "text.color": _INK,
    "axes.edgecolor": _SUBTLE,
    "axes.labelcolor": _SUBTLE,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "xtick.color": _SUBTLE,
    "ytick.color": _SUBTLE,
    "grid.color": _GRID,
    "axes.grid": True,
}


def loss_picture(steps: Mapping[str, Sequence[float | None]]) -> bytes:
    """SVG of the columns of `steps.tsv`: `step`, `loss`, `learning_rate` and, if any, `eval_loss`.

    A value that is None or NaN was not measured at that step.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    columns = {
        name: [math.nan if value is None else value for value in steps.get(name, ())]
        for name in ("step", "loss", "learning_rate", "eval_loss")
    }
    step = columns["step"]
    marker = "." if len(step) < 40 else ""
    with rc_context(_STYLE):
        figure = Figure(figsize=(9.0, 4.2), layout="constrained")
        loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        loss.plot(step, columns["loss"], color=COLORS["student"], lw=1.2, marker=marker)
        _measured(loss, step, columns["eval_loss"])
        loss.set_title("Loss")
        loss.set_ylabel("loss")
        rate.plot(step, columns["learning_rate"], color=_SUBTLE, lw=1.2, marker=marker)
        rate.set_ylabel("learning rate")
        rate.set_xlabel("step")
        rate.xaxis.set_major_locator(MaxNLocator(integer=True))
        rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        rate.set_ylim(bottom=0.0)
        return _svg(figure)


def report_picture(report: Report) -> bytes:
    """SVG of a report: quality against speed, and all metrics of the three models."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.35, 1.0])
        _speed_and_quality(left, report)
        _bars(right, report)
        return _svg(figure)


def _measured(axes: Axes, steps: Sequence[float], losses: Sequence[float]) -> None:
    """The loss on held-out rows, if any, with its best value."""
    points = [(steps[index], loss) for index, loss in enumerate(losses) if math.isfinite(loss)]
    if not points:
        return
    color = COLORS["untrained"]
    axes.plot(
        *zip(*points, strict=True), color=color, lw=1.8, marker="o", ms=5, label="held-out rows"
    )
    axes.lines[0].set_label("training")
    step, value = min(points, key=lambda point: point[1])
    axes.annotate(
        f"best {value:.4g}",
        (step, value),
        xytext=(0, 9),
        textcoords="offset points",
        ha="right" if step > 0.9 * max(steps) else "center",
        fontweight="bold",
    )
    axes.legend(frameon=False, loc="upper right")


def _speed_and_quality(axes: Axes, report: Report) -> None:
    """Each model as a point, its area in proportion to its parameters."""
    main = report.rising_main
    every = {role: report.rising(role) for role in report.quality}
    heights = {role: values[main] for role, values in every.items() if main in values}
    speeds = {role: report.speed[role].rows_per_second for role in heights}
    sizes = {role: report.speed[role].parameters for role in heights}
    end, start = ((speeds[role], heights[role]) for role in ("student", "untrained"))
    arrow = {"arrowstyle": "-|>", "color": COLORS["student"], "lw": 1.4, "shrinkA": 5, "shrinkB": 9}
    axes.annotate("", end, start, arrowprops=arrow)
    is_better = heights["student"] >= heights["untrained"]
    for role in heights:
        area = 420 * sizes[role] / max(sizes.values())
        axes.scatter(speeds[role], heights[role], max(area, 30), COLORS[role], zorder=3)
        above = role == "teacher" or (role == "student") == is_better
        axes.annotate(
            f"{report.names[role]}\n{sizes[role] / 1e6:,.3g} M parameters",
            (speeds[role], heights[role]),
            xytext=(0, (5 + math.sqrt(area) / 2) * (1 if above else -1)),
            textcoords="offset points",
            ha=_alignment(role, speeds),
            va="bottom" if above else "top",
            fontweight="bold" if role == "student" else "normal",
        )
    _frame(axes, [*speeds.values()], [*heights.values()])
    axes.set_xlabel("sentences per second (log scale)")
    axes.set_ylabel(main)
    axes.set_title(_verdict(report))


def _alignment(role: str, speeds: Mapping[str, float]) -> Literal["left", "center", "right"]:
    """Of a label on its point: labels of models of like speed go out of each other's way."""
    ratio = speeds["student"] / speeds.get("teacher", speeds["student"])
    if not 0.6 < ratio < 1.7:
        return "center"
    return "right" if (role == "teacher") == (ratio >= 1.0) else "left"


def _frame(axes: Axes, speeds: list[float], heights: list[float]) -> None:
    """Limits with room for labels, and plain numbers on the logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    decades = math.log10(max(speeds) / min(speeds))
    room = max(0.38 * decades, 0.2)
    axes.set_xscale("log")
    axes.set_xlim(min(speeds) / 10**room, max(speeds) * 10**room)
    sparse = (1.0,) if decades > 2 else (1.0, 3.0) if decades > 1 else (1.0, 2.0, 3.0, 5.0, 7.0)
    steps = sparse if decades > 0.2 else (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
    first = math.floor(math.log10(min(speeds)) - room)
    ticks = [step * 10.0**power for power in range(first, first + 12) for step in steps]
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    span = max(max(heights) - min(heights), 0.05)
    low, high = min(heights) - 0.3 * span, max(heights) + 0.3 * span
    axes.set_ylim(low, high)
    # No metric goes beyond 1: what is above is room for labels.
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= min(high, 1.0 + 1e-9)])


def _verdict(report: Report) -> str:
    """The result in one line."""
    share, speed_up = report.share("student"), report.speed["student"].speed_up
    times = f"{speed_up:.1f}" if speed_up < 10 else f"{speed_up:,.0f}"
    main = report.mains[0]
    if "teacher" not in report.quality:
        before, after = (report.quality[role][main] for role in ("untrained", "student"))
        return f"{before:.3f} before training, {after:.3f} after"
    if main not in share:
        return f"{times} times as fast as the teacher"
    return f"{100 * share[main]:.1f} % of the teacher's quality at {times} times its speed"


def _bars(axes: Axes, report: Report) -> None:
    """All metrics, one group of three bars each."""
    metrics = [*report.rising("student")]
    for place, role in enumerate(report.names):
        measured = report.rising(role)
        groups = [group for group, metric in enumerate(metrics) if metric in measured]
        values = [measured[metrics[group]] for group in groups]
        middles = [group + 0.26 * (place - 1) for group in groups]
        bars = axes.barh(middles, values, 0.24, color=COLORS[role], label=role)
        axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=7.5)
    axes.set_yticks(range(len(metrics)), metrics, color="black")
    middle, half = (len(metrics) - 1) / 2, max(len(metrics), 3) / 2
    axes.set_ylim(middle + half, middle - half)
    axes.tick_params("y", length=0)
    axes.grid(visible=False, axis="y")
    values = [value for role in report.quality for value in report.rising(role).values()]
    lowest, highest = min(values), max(*values, 0.1)
    axes.set_xlim(lowest - 0.2 * highest if lowest < 0 else 0.0, 1.2 * highest)
    axes.set_title("All metrics")
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.06))


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
