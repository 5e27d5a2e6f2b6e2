"""Ctrl-C and SIGTERM as a wish to stop at the next safe point, not as an exception anywhere."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int | None]]:
    """Within the block signals only wait: the given function says which one came, None so far.

    A second signal is not waited for: it does what it did before the block. One that whoever began
    this process wants to be ignored, as of a job in the background, stays so.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: was for number, was in before.items() if was != signal.SIG_IGN}

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
