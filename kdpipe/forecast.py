"""The arithmetic of a plan: what was measured on a little, and what follows for the whole.

Seconds and bytes are those of this machine. What a teacher in the training loop would cost is what
it takes to read the batches of the student, in their random order, in every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CorpusForecast:
    """What a corpus will be, or is."""

    name: str
    rows: int
    tokens: int
    bytes: int
    seconds: float
    """Of `kdpipe tokenize`; 0 where it is up to date."""
    exact: bool
    """Whether rows, tokens and bytes are counted, or follow from a sample of rows."""


@dataclass(frozen=True)
class CacheForecast:
    """What is still to do for a cache."""

    name: str
    blocks: int
    of_blocks: int
    bytes: Mapping[str, int]
    """Still to write, by question."""
    seconds: float
    """Of the teacher's forward passes over these blocks."""
    load: float = 0.0
    """Seconds until the teacher can begin."""
    exact: bool = True
    """Whether blocks and bytes are counted, or follow from a sample of rows."""
    teacher: bool = True
    """Whether one is run; False where what it said is in files."""

    @property
    def whole_seconds(self) -> float:
        """Of `kdpipe cache-teacher`."""
        return self.load + self.seconds if self.blocks else 0.0


@dataclass(frozen=True)
class StudentForecast:
    """How a student will be trained."""

    name: str
    steps: float
    steps_per_epoch: float
    start: float
    """Seconds until its first step is done."""
    step: float
    """Seconds of each later one, what it reads from caches included."""
    measuring: float
    """Seconds of all measurements on held-out rows."""
    in_loop: Mapping[str, float] = field(default_factory=dict)
    """By cache, seconds that its teacher would take for the batches of one step."""
    reading: Mapping[str, float] = field(default_factory=dict)
    """By cache, seconds that reading takes for them instead."""
    exact: bool = True
    """Whether steps are counted, or follow from a sample of rows."""

    @property
    def epochs(self) -> float:
        """Passes over its rows."""
        return self.steps / self.steps_per_epoch

    @property
    def seconds(self) -> float:
        """Of `kdpipe train`."""
        return self.start + max(0.0, self.steps - 1) * self.step + self.measuring

    @property
    def epoch_seconds(self) -> float:
        """Of one epoch, with its share of the measurements."""
        return self.steps_per_epoch * self.step + self.measuring / self.epochs

    @property
    def with_teachers(self) -> float:
        """Seconds of the same training, had it its teachers in the loop and no caches."""
        return self.seconds + sum(self.gain(cache) for cache in self.in_loop)

    def gain(self, cache: str) -> float:
        """Seconds that a cache saves in the whole training, what it takes to make it aside."""
        if cache not in self.in_loop:
            return 0.0
        return self.steps * (self.in_loop[cache] - self.reading[cache])


@dataclass(frozen=True)
class Verdict:
    """Whether a cache pays."""

    epochs: float
    """Of all students that learn from it, as the pipeline file has them."""
    students: int
    after: float
    """Epochs after which it has saved as much as it takes to make it; infinite: never."""
    saved: float
    """Seconds in all these epochs, its making subtracted."""

    @property
    def pays(self) -> bool:
        """Whether there are epochs enough."""
        return self.saved > 0

    @property
    def students_needed(self) -> int:
        """How many students like these, on average, make it pay; with any but the last it does not.

        Only where it ever pays.
        """
        return math.floor(self.after * self.students / self.epochs) + 1


def verdict(cache: CacheForecast, students: Sequence[StudentForecast]) -> Verdict | None:
    """None where nobody learns from it, or no teacher is run for it."""
    mine = [student for student in students if cache.name in student.in_loop]
    if not mine:
        return None
    epochs = sum(student.epochs for student in mine)
    gain = sum(student.gain(cache.name) for student in mine)
    after = cache.seconds * epochs / gain if gain > 0 else math.inf
    return Verdict(epochs, len(mine), after, gain - cache.seconds)


def told(cache: CacheForecast, found: Verdict | None, clock: Callable[[float], str]) -> str:
    """A sentence about a cache; `clock` tells seconds."""
    if not cache.teacher:
        return "files give it, no teacher is run"
    if found is None:
        return "no student learns from it"
    if not cache.blocks:
        return f"is there; saves {clock(found.saved)} in {_epochs(found.epochs)}"
    if math.isinf(found.after):
        return "do not cache: to read it takes longer than to ask the teacher"
    needs = f"pays after {_epochs(found.after)} ({_students(found.students_needed)})"
    if found.pays:
        return f"{needs}; in {_epochs(found.epochs)} it saves {clock(found.saved)}"
    return f"do not cache: it {needs}, students have {_epochs(found.epochs)}"


def _epochs(count: float) -> str:
    return f"{count:.3g} epoch{'' if count == 1 else 's'}"


def _students(count: int) -> str:
    return f"{count:,} student{'' if count == 1 else 's'}"


def measurements(steps: float, every: float) -> int:
    """How often held-out rows are measured: every so many steps, and after the last."""
    # A sample gives steps that are no whole numbers.
    return max(1, math.ceil(steps / every - 1e-9))
