"""What a log and a terminal show of long work."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest

from kdpipe import progress
from kdpipe.progress import Progress, clock_tenths, clock_time, counted, human, human_bytes


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _loud() -> Iterator[None]:
    progress.set_quiet(False)
    yield
    progress.set_quiet(False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (0.25, "0.25"),
        (999, "999"),
        (999.6, "1k"),
        (18_312, "18.3k"),
        (999_700, "1M"),
        (1_200_000, "1.2M"),
        (2.5e9, "2.5G"),
        (4.25e12, "4.25T"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert human(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (9.6, "0:10"), (72, "1:12"), (3599.7, "1:00:00"), (7272, "2:01:12")],
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00.0"), (0.44, "0:00.4"), (59.96, "1:00.0"), (61.25, "1:01.2")]
)
def test_short_times(seconds: float, text: str) -> None:
    assert clock_tenths(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (12_345_678, "12.3 MB")]
)
def test_sizes(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("number", "nouns", "text"),
    [
        (0, ("block",), "0 blocks"),
        (1, ("block",), "1 block"),
        (2000, ("block",), "2,000 blocks"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
    ],
)
def test_what_is_counted(number: int, nouns: tuple[str, ...], text: str) -> None:
    assert counted(number, *nouns) == text


def test_a_log_gets_a_line_every_ten_seconds_and_a_last_one() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("teacher", 2_700_000, "tokens", stream=stream, clock=clock) as bar:
        for second in range(1, 26):
            clock.now += 1
            bar.advance(18_300, note=f"{second}/70 blocks")
    assert stream.getvalue().splitlines() == [
        "teacher: 6% 183k/2.7M tokens, 18.3k tokens/s, 2:18 left, 10/70 blocks",
        "teacher: 13% 366k/2.7M tokens, 18.3k tokens/s, 2:08 left, 20/70 blocks",
        "teacher: 16% 458k/2.7M tokens, 18.3k tokens/s, in 0:25, 25/70 blocks",
    ]


def test_what_an_earlier_run_did_counts_for_the_share_and_not_for_the_speed() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("train", 1000, "steps", done=900, stream=stream, clock=clock) as bar:
        clock.now += 10
        bar.advance(20)
    assert stream.getvalue().splitlines() == [
        "train: 92% 920/1k steps, 2 steps/s, 0:40 left",
        "train: 92% 920/1k steps, 2 steps/s, in 0:10",
    ]


def test_work_of_unknown_size_shows_count_and_speed() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("tokenize", None, "rows", stream=stream, clock=clock) as bar:
        clock.now += 20
        bar.advance(500)
    assert stream.getvalue().splitlines() == [
        "tokenize: 500 rows, 25 rows/s",
        "tokenize: 500 rows, 25 rows/s, in 0:20",
    ]


def test_nothing_to_do_is_all_done() -> None:
    stream = io.StringIO()
    with Progress("teacher", 0, "tokens", stream=stream, clock=Clock()):
        pass
    assert stream.getvalue() == "teacher: 100% 0/0 tokens, in 0:00\n"


def test_the_last_line_comes_also_when_the_work_breaks_off() -> None:
    clock, stream = Clock(), io.StringIO()

    def work() -> None:
        with Progress("teacher", 100, "tokens", stream=stream, clock=clock) as bar:
            clock.now += 2
            bar.advance(50)
            raise ValueError("full")

    with pytest.raises(ValueError, match="full"):
        work()
    assert stream.getvalue() == "teacher: 50% 50/100 tokens, 25 tokens/s, in 0:02\n"


def test_say_writes_a_line_to_stderr_and_nothing_to_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress.say("artifacts/corpora/docs: up to date")
    assert capsys.readouterr() == ("", "artifacts/corpora/docs: up to date\n")


def test_say_goes_where_the_open_bar_is() -> None:
    stream = io.StringIO()
    with Progress("train", 2, "steps", stream=stream, clock=Clock()):
        progress.say("step 1: better")
    assert stream.getvalue().splitlines()[0] == "step 1: better"


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clock, stream = Clock(), Terminal()
    progress.set_quiet(True)
    with Progress("train", 2, "steps", stream=stream, clock=clock) as bar:
        clock.now += 60
        bar.advance(1)
        progress.say("a line")
    assert stream.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_live_bar_that_lines_do_not_break(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    clock, stream = Clock(), Terminal()
    with Progress("teacher", 1000, "tokens", stream=stream, clock=clock) as bar:
        clock.now += 4
        bar.advance(450, note="[1/2] blocks")
        progress.say("[bold]a line[/bold]")
        with Progress("inner", 3, "steps", stream=stream, clock=clock) as inner:
            inner.advance(3)
    lines = _plain(stream.getvalue())
    assert "[bold]a line[/bold]" in lines
    assert "inner: 100% 3/3 steps, in 0:00" in lines
    state = "45% 450/1k tokens, 112 tokens/s, 0:04 elapsed, 0:05 left, [1/2] blocks"
    assert re.fullmatch(rf"teacher \S{{20}} {re.escape(state)}\s*", lines[-1])


def test_a_terminal_is_given_back_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    with (
        Progress("outer", 2, "steps", stream=stream, clock=Clock()),
        Progress("inner", 3, "steps", stream=stream, clock=Clock()),
    ):
        hides, shows = "\x1b[?25l", "\x1b[?25h"
        assert (stream.getvalue().count(hides), stream.getvalue().count(shows)) == (1, 0)
        progress.leave()
        assert stream.getvalue().count(shows) == 1


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress("train", 2, "steps", stream=stream, clock=Clock()) as bar:
        bar.advance(2)
    assert stream.getvalue() == "train: 100% 2/2 steps, in 0:00\n"


def _plain(text: str) -> list[str]:
    """The lines that were drawn, without colours and movements of the cursor."""
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return [line.rstrip() for line in re.split(r"[\r\n]+", drawn) if line.strip()]
