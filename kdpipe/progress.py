"""Long work shows how far it is, on stderr: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

SECONDS_BETWEEN_LINES = 10.0


@dataclass
class _Screen:
    """What is shown now: the whole process has one stderr."""

    quiet: bool = False
    bar: Progress | None = None


_screen = _Screen()


def set_quiet(quiet: bool) -> None:
    """Show no bars, no progress lines and no status lines."""
    _screen.quiet = quiet


def is_quiet() -> bool:
    """Whether `set_quiet(True)` was said last."""
    return _screen.quiet


def say(text: str) -> None:
    """One status line on stderr, above a live bar where there is one."""
    if _screen.quiet:
        return
    if _screen.bar is None:
        _write(sys.stderr, text)
    else:
        _screen.bar.say(text)


def leave() -> None:
    """Give the terminal back before a process ends without leaving its blocks."""
    bar = _screen.bar
    while bar is not None:
        if bar._live is not None:
            bar._live.stop()
        bar = bar._outer


def human(value: float) -> str:
    """Three digits and a power of a thousand: 18.3k, 1.2M."""
    for suffix in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.3g}{suffix}"
        value /= 1000
    return f"{value:.3g}T"


def human_bytes(count: int) -> str:
    """The same of bytes: `18.3 kB`, `999 B`."""
    text = human(count)
    return f"{text} B" if text[-1].isdigit() else f"{text[:-1]} {text[-1]}B"


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """A number with what it counts: `1 block`, `2,000 blocks`; with `nouns`, `2 classes`."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def clock_time(seconds: float) -> str:
    """`1:12`, or `2:01:12` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def clock_tenths(seconds: float) -> str:
    """`0:01.4`, for what is short."""
    minutes, tenths = divmod(round(seconds * 10), 600)
    return f"{minutes}:{tenths // 10:02}.{tenths % 10}"


class Progress:
    """A context in which `advance` is called as work gets done.

    `total` None is work of unknown size; `done` is what an earlier run did, which counts for the
    percentage and not for the speed. A bar inside another bar writes lines.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        unit: str,
        *,
        done: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._done = self._before = done
        self._note = ""
        self._stream = stream or sys.stderr
        self._clock = clock
        self._outer: Progress | None = None
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._started = self._last_line = self._clock()
        self._outer = _screen.bar
        terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        if terminal and self._outer is None and not _screen.quiet:
            self._live = self._start_bar()
        _screen.bar = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _screen.bar = self._outer
        if self._live is not None:
            self._live.stop()
        elif not _screen.quiet:
            self._line(f"in {clock_time(self._elapsed())}")

    def advance(self, amount: int = 0, note: str | None = None) -> None:
        """Count finished work in `unit`s; `note` replaces the words at the end of the line."""
        self._done += amount
        self._note = self._note if note is None else note
        now = self._clock()
        if self._live is None and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            if not _screen.quiet:
                self._line(self._left())

    def say(self, text: str) -> None:
        """One line that leaves the bar whole."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self._outer is not None:
            self._outer.say(text)
        else:
            _write(self._stream, text)

    def _line(self, time_text: str) -> None:
        self.say(f"{self._name}: {self._percent()}{self._state(time_text)}")

    def _percent(self) -> str:
        if self._total is None:
            return ""
        return f"{100 * self._done // self._total if self._total else 100}% "

    def _state(self, *times: str) -> str:
        total = "" if self._total is None else f"/{human(self._total)}"
        rate = self._rate()
        speed = f"{human(rate)} {self._unit}/s" if rate else ""
        count = f"{human(self._done)}{total} {self._unit}"
        return ", ".join(part for part in (count, speed, *times, self._note) if part)

    def _elapsed(self) -> float:
        return self._clock() - self._started

    def _rate(self) -> float:
        elapsed = self._elapsed()
        return (self._done - self._before) / elapsed if elapsed > 0 else 0.0

    def _left(self) -> str:
        rate = self._rate()
        if self._total is None or not rate:
            return ""
        return f"{clock_time(max(self._total - self._done, 0) / rate)} left"

    def _start_bar(self) -> Live:
        from rich.console import Console
        from rich.live import Live

        # stdout is left alone: results go there, and it need not be this terminal.
        live = Live(
            console=Console(file=self._stream),
            get_renderable=self._bar,
            refresh_per_second=4,
            redirect_stdout=False,
        )
        live.start()
        return live

    def _bar(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        elapsed = f"{clock_time(self._elapsed())} elapsed"
        state = Text(self._percent() + self._state(elapsed, self._left()), "none")
        state.no_wrap, state.overflow = True, "ellipsis"
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._total, completed=self._done, width=20)
        grid.add_row(Text(self._name), bar, state)
        return grid


def _write(stream: TextIO, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()
