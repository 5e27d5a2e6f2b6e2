"""A few real steps of a student, on what its teachers say about their batches meanwhile.

It takes batches as training does, of every length, and reads what was said as it is read from a
cache: only that this one lies in memory and not on a disk.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kdpipe import storage, train
from kdpipe.activations import Tokens
from kdpipe.batches import Rows
from kdpipe.cache import Cache
from kdpipe.encoder import Encoder, observe
from kdpipe.join import Joined
from kdpipe.loader import Batch, read_ahead, read_batch
from kdpipe.parts import Needs, Part
from kdpipe.questions import Asking
from kdpipe.run import Run

T = TypeVar("T")
_MOST = 8
"""Batches of a student that are read again and again."""
_GOLDEN = (5**0.5 - 1) / 2
_TINY = 1e-9
"""A learning rate with which nothing becomes infinite, whatever the weights are."""


@dataclass(frozen=True, eq=False)
class Rehearsed(Cache):
    """What a teacher said about some rows a moment ago, kept in memory as a cache keeps it."""

    asking: Asking
    encoder: Encoder
    kept: dict[tuple[Part, int], dict[str, Tensor]] = field(default_factory=dict)

    def ask(self, rows: Rows, needs: Needs) -> float:
        """Let the teacher read these rows as one batch; the seconds that it took."""
        corpus = self.corpus
        tokens = Tokens.of(corpus.gather(rows), corpus.facts.prompt_tokens)
        took, said = timed(
            lambda: observe(self.encoder, tokens, needs, self.asking.dtype), self.encoder.device
        )
        for question in self.asking.questions:
            part = question.what
            if part in needs:
                encode = storage.encode if question.top_k is None else storage.encode_largest
                counts = np.ones_like(rows)
                if part.per_token:
                    counts = corpus.masked[rows] if part.only_masked else tokens.lengths.numpy()
                pieces = {
                    name: tensor.split(counts.tolist())
                    for name, tensor in encode(said[part].cpu(), question.storage).items()
                }
                for place, row in enumerate(rows.tolist()):
                    self.kept[part, row] = {name: some[place] for name, some in pieces.items()}
        return took

    def _gather(self, rows: Rows, number: int, part: Part) -> Tensor:
        found = [self.kept[part, row] for row in rows.tolist()]
        return storage.decode({name: torch.cat([one[name] for one in found]) for name in found[0]})


@dataclass(frozen=True)
class Rehearsal:
    """Seconds of a student, on average over batches of every length."""

    first: float
    """Of the first step."""
    step: float
    """Of each later one, reading included."""
    in_loop: dict[str, float]
    """By cache, of its teacher's forward pass over the batches of a step."""
    reading: dict[str, float]
    """By cache, of reading the same."""
    per_token: float
    """Of a token of held-out rows that is measured."""


def rehearse(run: Run, seconds: float) -> Rehearsal:
    """Measured for about so many seconds with the teachers, and again for so many with the student.

    Raises:
        NonFiniteError: the loss became NaN or Inf.
    """
    needs = run.terms.needs_of_teachers()
    groups = [*itertools.islice(train.plan(run, 0), train.steps_per_epoch(run))]
    groups.sort(key=lambda group: int(run.corpus.lengths[group[0]].max()))
    picks = [groups[place] for place in spread(len(groups), _MOST)]
    live = {
        name: joined
        for name, joined in run.caches.items()
        if name in needs and isinstance(joined.cache, Rehearsed)
    }
    asked, in_loop = _ask(live, needs, picks, seconds)
    reading = {name: _reading(run, joined, needs[name], asked) for name, joined in live.items()}
    first, *later = _steps(run, asked, seconds)
    batch = read_batch(run.corpus, {}, {}, asked[0][0], None).tokens
    of_student, device = run.terms.needs_of_student(), run.device
    # The second time, since the first may compile.
    per_token = min(
        timed(lambda: observe(run.student, batch, of_student, run.dtype), device)[0]
        for _ in range(2)
    ) / len(batch.ids)
    return Rehearsal(first, statistics.mean(later), in_loop, reading, per_token)


def spread(count: int, most: int) -> list[int]:
    """At most so many places below `count`: the middle, then others from all over, each once."""
    places = (int((0.5 + number * _GOLDEN) % 1.0 * count) for number in range(most))
    return [*dict.fromkeys(places)]


def _ask(
    live: dict[str, Joined], needs: dict[str, Needs], picks: Sequence[list[Rows]], seconds: float
) -> tuple[list[list[Rows]], dict[str, float]]:
    """The batches that the teachers read before time was over, and seconds for those of a step."""
    times: dict[str, list[float]] = {name: [] for name in live}
    begin, done = time.perf_counter(), 0
    for number, group in enumerate([picks[0], *picks] if live else picks):
        for name, joined in live.items():
            cache = joined.cache
            assert isinstance(cache, Rehearsed)
            took = [cache.ask(_there(joined, rows), needs[name]) for rows in group]
            times[name].append(sum(took))
        done = number
        if number and time.perf_counter() - begin > seconds:
            break
    # The first time is for warming up.
    asked = [*picks[:done]] if live else [*picks]
    return asked, {name: statistics.mean(some[1:]) for name, some in times.items()}


def _reading(run: Run, joined: Joined, needs: Needs, asked: list[list[Rows]]) -> float:
    """Seconds to read what a teacher said about the batches of a step."""
    times = []
    for group in [asked[0], *asked]:
        mine = [run.corpus.gather(rows) for rows in group]
        begin = time.perf_counter()
        for rows, encoded in zip(group, mine, strict=True):
            joined.read(rows, needs, encoded)
        times.append(time.perf_counter() - begin)
    return statistics.mean(times[1:])


def _steps(run: Run, asked: list[list[Rows]], seconds: float) -> list[float]:
    """Seconds of real steps on these batches, of which there are two at least."""
    run = replace(run, spec=run.spec.model_copy(update={"learning_rate": _TINY}))
    total, needs = train.total_steps(run), run.terms.needs_of_teachers()

    def read(group: list[Rows]) -> list[Batch]:
        return [read_batch(run.corpus, run.caches, needs, rows, run.gold) for rows in group]

    times: list[float] = []
    begin = time.perf_counter()
    # The first comes twice, so that those that count are of every length.
    for some in read_ahead(itertools.chain([asked[0]], itertools.cycle(asked)), read, run.device):
        # One of the middle of the training, where every objective has its weight.
        train.take_step(run, some, total // 2 + 1, total, 0.0)
        end = time.perf_counter()
        times.append(end - begin)
        begin = end
        if len(times) > 1 and sum(times[1:]) > seconds:
            break
    return times


def _there(joined: Joined, rows: Rows) -> Rows:
    """Rows of the student's corpus in the cache's."""
    return rows if joined.row_of is None else joined.row_of[rows]


def timed(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Seconds, and what came of it."""
    begin = time.perf_counter()
    done = work()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - begin, done
