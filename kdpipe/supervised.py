"""A tokenizer's native code has limits of time and memory, which grow with the text that it reads.

Nothing interrupts native code, and a hostile `tokenizer.json` can make it run for ever or fill the
memory. So a thread looks at a call while it lasts; beyond a limit the program says why in one line
and ends, after which all is as after `kill -9`. It sees only calls that let other threads run: of
the `tokenizers` library these are `encode_batch`, `encode_batch_fast` and `decode_batch`. As a
library kdpipe ends nobody's process: there are limits only within `watching`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import NoReturn

from kdpipe.errors import ArtifactError
from kdpipe.progress import human_bytes

SECONDS, CHARACTERS_PER_SECOND = 60.0, 50_000
"""Real tokenizers read more than a million characters a second on one core."""
BYTES, BYTES_PER_CHARACTER = 1 << 30, 1000
"""Above what the process had when the call began; real tokenizers take 30 to 400 a character."""
_TICK = 0.05
"""Seconds."""
_STATM = "/proc/self/statm"
REMEDY = "use another model, or shorter texts"

Text = str | tuple[str, str]
End = Callable[[ArtifactError], NoReturn]
"""Says what is wrong, and ends the process."""


@contextlib.contextmanager
def watching(end: End) -> Iterator[None]:
    """Within the block calls have limits; beyond one, `end` is called in a thread of its own."""
    _ends.append(end)
    try:
        yield
    finally:
        _ends.pop()


@contextlib.contextmanager
def reading(
    who: str, texts: Sequence[Text], *, share: float = 1.0, remedy: str = REMEDY
) -> Iterator[None]:
    """Within the block native code, called `who` in messages, reads `texts`.

    `share` is that of the usual limits, `remedy` what to do beyond one.

    Raises:
        ArtifactError: it refuses to, or gives up.
    """
    call = _begin(who, texts, share, remedy) if _ends else None
    try:
        yield
    except BaseException as error:
        # Rust raises nothing narrower, and its panics are no Exception.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        reason = str(error).strip().partition("\n")[0]
        raise ArtifactError(f"{who} cannot read a text ({reason}): use another model") from None
    finally:
        if call is not None:
            call.watch.calls.remove(call)


def _begin(who: str, texts: Sequence[Text], share: float, remedy: str) -> _Call:
    if not _watches:
        _watches.append(_Watch())
        _watches[-1].start()
    here = (_ends[-1], _watches[-1], threading.get_ident(), _memory())
    call = _Call(who, texts, share, remedy, *here)
    call.watch.calls.append(call)
    call.watch.began.set()
    return call


@dataclass(eq=False)
class _Call:
    who: str
    texts: Sequence[Text]
    share: float
    remedy: str
    end: End
    watch: _Watch
    caller: int
    """The thread that waits for it."""
    before: int
    """Bytes that the process had."""
    seconds: float = 0.0

    def look(self) -> None:
        """Count a tick, and end the process where a limit is passed."""
        # Not by the clock: in a process that was stopped it goes on.
        self.seconds += _TICK
        grown = _memory() - self.before
        if self.seconds <= self.share * SECONDS and grown <= self.share * BYTES:
            return
        # Only now, so that most calls do nothing for each text.
        size = sum(len(text if isinstance(text, str) else "".join(text)) for text in self.texts)
        seconds = self.share * (SECONDS + size / CHARACTERS_PER_SECOND)
        most = int(self.share * (BYTES + size * BYTES_PER_CHARACTER))
        if self.seconds > seconds:
            self._give_up(f"takes more than {seconds:,.0f} s for {size:,} characters")
        elif grown > most:
            self._give_up(f"takes more than {human_bytes(most)} of memory for {size:,} characters")

    def _give_up(self, reason: str) -> NoReturn:
        error = ArtifactError(f"{self.who} {reason}: {self.remedy}")
        self.end(error.with_traceback(_traceback(sys._current_frames().get(self.caller))))


class _Watch(threading.Thread):
    """Looks at all calls of a process; sleeps while there are none."""

    def __init__(self) -> None:
        super().__init__(name="kdpipe-watch", daemon=True)
        self.calls: list[_Call] = []
        self.began = threading.Event()

    def run(self) -> None:
        while True:
            self.began.wait()
            time.sleep(_TICK)
            for call in [*self.calls]:
                with contextlib.suppress(OSError):
                    call.look()
            # In this order: a call may begin in between.
            self.began.clear()
            if self.calls:
                self.began.set()


_ends: list[End] = []
_watches: list[_Watch] = []
"""The one of this process, once there was a call."""
os.register_at_fork(after_in_child=_watches.clear)  # threads stay behind


def _memory() -> int:
    """Bytes of this process that are not a file's; where nobody tells (macOS), the most ever."""
    try:
        with open(_STATM, "rb") as file:
            pages = [int(number) for number in file.read().split()]
    except FileNotFoundError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most << 10
    return (pages[1] - pages[2]) * resource.getpagesize()


def _traceback(frame: FrameType | None) -> TracebackType | None:
    """Where another thread is, in the form that an exception has."""
    found = None
    while frame is not None:
        found = TracebackType(found, frame, frame.f_lasti, frame.f_lineno)
        frame = frame.f_back
    return found
