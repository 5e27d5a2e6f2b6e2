"""Pictures: well-formed, the same bytes for the same numbers, and with what they are about."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from kdpipe.plots import loss_picture, report_picture
from kdpipe.report import Report
from kdpipe.speed import Speed

STEPS: dict[str, list[float | None]] = {
    "step": [10, 20, 30, 40],
    "loss": [0.5, 0.4, 0.35, 0.33],
    "eval_loss": [None, 0.45, None, 0.4375],
    "learning_rate": [1e-4, 2e-4, 1e-4, 0.0],
}


def speed(parameters: int, rows_per_second: float, speed_up: float) -> Speed:
    fixed = {"rows": 100, "dtype": "fp32", "device": "cpu", "threads": 1}
    timed = (rows_per_second, 20 * rows_per_second, 3.0, 9.0, speed_up)
    return Speed(parameters, 4 * parameters, *timed, **fixed)


def report(**changes: object) -> Report:
    whole = Report(
        names={"teacher": "minilm", "untrained": "tiny (untrained)", "student": "tiny"},
        quality={
            "teacher": {"sts.spearman": 0.8, "fidelity.spearman": 1.0, "fidelity.cosine": 1.0},
            "untrained": {"sts.spearman": 0.25, "fidelity.spearman": -0.125},
            "student": {"sts.spearman": 0.76, "fidelity.spearman": 0.9375},
        },
        speed={
            "teacher": speed(22_700_000, 300.0, 1.0),
            "untrained": speed(4_000_000, 1800.0, 6.0),
            "student": speed(4_000_000, 1800.0, 6.0),
        },
        mains=("sts.spearman", "fidelity.spearman"),
    )
    return replace(whole, **changes)


def words(svg: bytes) -> list[str]:
    """Letters are drawn as outlines; each text stands beside them as a comment."""
    return re.findall("<!-- (.*?) -->", svg.decode(), re.DOTALL)


def groups(svg: bytes) -> Counter[str]:
    """How often each kind of thing was drawn: `line2d`, `patch`, `PathCollection`, ..."""
    names = (element.get("id", "") for element in ElementTree.fromstring(svg).iter())
    return Counter(name.partition("_")[0] for name in names)


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert report_picture(report()) == report_picture(report())
    assert loss_picture(STEPS) == loss_picture(STEPS)
    assert b"<dc:date>" not in loss_picture(STEPS) + report_picture(report())


def test_a_report_shows_models_metrics_and_the_result() -> None:
    svg = report_picture(report())
    text = " ".join(words(svg))
    assert "95.0 % of the teacher's quality at 6.0 times its speed" in text
    for label in ("minilm", "tiny (untrained)", "22.7 M parameters", "4 M parameters"):
        assert label in text
    assert words(svg).count("sts.spearman") == 2  # the axis of one half, the bars of the other
    assert words(svg).count("fidelity.spearman") == 1
    for value in ("0.800", "0.250", "0.760", "1.000", "0.938"):
        assert value in text
    assert groups(svg)["PathCollection"] == 3


def test_a_metric_that_not_all_have_is_left_out() -> None:
    assert "fidelity.cosine" not in words(report_picture(report()))


def test_a_teacher_of_no_worth_gets_no_share() -> None:
    quality = {role: {"sts.spearman": 0.0} for role in report().names}
    text = words(report_picture(report(quality=quality)))
    assert "6.0 times as fast as the teacher" in text


def test_models_of_equal_speed_and_quality_can_be_drawn() -> None:
    same = dict.fromkeys(report().names, speed(1000, 50.0, 1.0))
    quality = {role: {"sts.spearman": 0.5} for role in same}
    assert groups(report_picture(report(speed=same, quality=quality)))["PathCollection"] == 3


def test_the_area_of_a_point_is_in_proportion_to_the_parameters() -> None:
    equal = report(speed=dict.fromkeys(report().names, speed(1000, 50.0, 1.0)))
    assert report_picture(equal) != report_picture(report())
    sizes = [_extent(point) for point in _points(report_picture(report()))]
    assert sizes[0] ** 2 / sizes[2] ** 2 == pytest.approx(22.7 / 4, rel=0.01)
    assert sizes[1] == sizes[2]


def _points(svg: bytes) -> list[str]:
    """The outline of each point, in the order teacher, untrained, student."""
    return re.findall(r'<g id="PathCollection_\d+">.*?<path id="\w+" d="(.*?)"', svg.decode(), re.S)


def _extent(outline: str) -> float:
    return max(float(number) for number in re.findall(r"-?\d+\.\d+", outline))


def test_a_loss_shows_both_losses_and_the_best() -> None:
    svg = loss_picture(STEPS)
    assert {"training", "held-out rows", "best 0.4375", "learning rate"} <= set(words(svg))


@pytest.mark.parametrize("gone", ["eval_loss", None])
def test_a_loss_without_held_out_rows(gone: str | None) -> None:
    steps = {name: values for name, values in STEPS.items() if name != gone}
    if gone is None:
        steps["eval_loss"] = [None, None, float("nan"), None]
    text = words(loss_picture(steps))
    assert "held-out rows" not in text
    assert "loss" in text


def test_nothing_logged_is_an_empty_picture() -> None:
    assert groups(loss_picture({}))["axes"] == 2


def test_pictures_leave_the_settings_of_matplotlib_alone() -> None:
    before = dict(mpl.rcParams)
    loss_picture(STEPS)
    report_picture(report())
    assert dict(mpl.rcParams) == before


def test_no_window_system_is_touched() -> None:
    code = "import sys; from kdpipe.plots import loss_picture; loss_picture({})"
    code += "; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
