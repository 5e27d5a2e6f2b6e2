"""How large and how fast models are, compared fairly on a machine that also does other things.

Time counts from token ids to vectors on the CPU; tokenizing is the same for all and left out.
Models take turns, round after round, and medians of the rounds are kept, so that a disturbance hits
all of them or is left out. A quick probe decides how many rows fit the time. Training does not make
a model faster: of models of one shape only the last is timed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kdpipe.encoder import ask
from kdpipe.hub import weight_files
from kdpipe.modules import transformer_folder
from kdpipe.tasks.subject import HeldOut, Subject

ROUNDS, FEWEST_ROUNDS = 9, 3
MOST_ROWS, FEWEST_ROWS = 2000, 16
"""Rows of the throughput sample."""
MOST_PROBED = 256
"""Rows of the longest probe."""
MOST_SINGLES, FEWEST_SINGLES = 50, 5
"""Rows that are timed one by one."""
_SHARE = 0.7
"""Of the time, for throughput; the rest is for latency."""
_NOT_SHAPE = {"_name_or_path", "architectures", "dtype", "transformers_version"}
"""Config keys that tell where a model comes from."""


@dataclass(frozen=True)
class Speed:
    """Size and speed of one model, and how they were measured."""

    parameters: int
    bytes: int
    """Of the weight files; of the tensors in memory for a model that has no files."""
    rows_per_second: float
    """Throughput in batches of rows of like length."""
    tokens_per_second: float
    latency_p50_ms: float
    """Median time of one row alone."""
    latency_p95_ms: float
    """Of 20 rows one alone takes longer."""
    speed_up: float
    """`rows_per_second` over that of the first model measured."""
    rows: int
    """Rows of the throughput sample."""
    dtype: str
    device: str
    threads: int
    """CPU threads of torch."""


@dataclass(frozen=True)
class _Clock:
    """Median seconds over the rounds."""

    batched: float
    """For the whole throughput sample."""
    p50: float
    p95: float


def measure(subjects: Sequence[Subject], held_out: HeldOut, seconds: float = 20.0) -> list[Speed]:
    """Speed of each subject on the same held-out rows, in about `seconds` for all together."""
    shapes = [_shape(subject) for subject in subjects]
    timed = {shape: subject for shape, subject in zip(shapes, subjects, strict=True)}
    end = time.perf_counter() + seconds
    sample, singles = _fit([*timed.values()], held_out, seconds)
    clocks = dict(zip(timed, _time([*timed.values()], sample, singles, end), strict=True))
    speeds = []
    for subject, shape in zip(subjects, shapes, strict=True):
        clock = clocks[shape]
        speeds.append(
            Speed(
                parameters=sum(tensor.numel() for tensor in subject.encoder.parameters()),
                bytes=_size(subject),
                rows_per_second=len(sample.tokens) / clock.batched,
                tokens_per_second=len(sample.read_by(subject).ids) / clock.batched,
                latency_p50_ms=1e3 * clock.p50,
                latency_p95_ms=1e3 * clock.p95,
                speed_up=clocks[shapes[0]].batched / clock.batched,
                rows=len(sample.tokens),
                dtype=subject.dtype,
                device=subject.encoder.device.type,
                threads=torch.get_num_threads(),
            )
        )
    return speeds


def _shape(subject: Subject) -> str:
    """What decides how fast a model is."""
    weights = [(name, tensor.shape) for name, tensor in subject.encoder.state_dict().items()]
    head = subject.encoder.head
    config = subject.encoder.model.config.to_dict()
    facts = [(key, config[key]) for key in sorted(config) if key not in _NOT_SHAPE]
    return repr((weights, head.pooling, head.normalize, facts, subject.dtype))


def _size(subject: Subject) -> int:
    """Bytes of the weights."""
    if subject.folder is None:
        tensors = subject.encoder.state_dict().values()
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    dense = [path / "model.safetensors" for path in subject.encoder.head.dense]
    files = [*weight_files(transformer_folder(subject.folder)), *dense]
    return sum(path.stat().st_size for path in files)


def _fit(
    subjects: Sequence[Subject], held_out: HeldOut, seconds: float
) -> tuple[HeldOut, list[HeldOut]]:
    """The throughput sample and the rows to time one by one that fit the time; warms models up."""
    batched, alone = 0.0, 0.0
    for subject in subjects:
        # The first pass warms up. Few rows tell too little, but many of a slow model take too long.
        probe = held_out.spread(FEWEST_ROWS)
        cost = min(_seconds(subject, probe) for _ in range(2)) / len(probe.tokens)
        if cost * MOST_PROBED < seconds / 20:
            probe = held_out.spread(MOST_PROBED)
            cost = _seconds(subject, probe) / len(probe.tokens)
        batched += cost
        single = held_out.spread(1)
        alone += min(_seconds(subject, single) for _ in range(3))
    rows = int(_SHARE * seconds / ROUNDS / batched)
    singles = int((1 - _SHARE) * seconds / ROUNDS / alone)
    sample = held_out.spread(min(max(rows, FEWEST_ROWS), MOST_ROWS))
    few = held_out.spread(min(max(singles, FEWEST_SINGLES), MOST_SINGLES))
    return sample, [few.take(torch.tensor([row])) for row in range(len(few.tokens))]


def _time(
    subjects: Sequence[Subject], sample: HeldOut, singles: list[HeldOut], end: float
) -> list[_Clock]:
    """Every subject in every round; fewer rounds where the probe was too hopeful."""
    batched: list[list[float]] = []
    alone: list[list[list[float]]] = []
    for turn in range(ROUNDS):
        if turn >= FEWEST_ROUNDS and time.perf_counter() > end:
            break
        batched.append([_seconds(subject, sample) for subject in subjects])
        alone.append([[_seconds(subject, row) for row in singles] for subject in subjects])
    p50, p95 = np.median(np.percentile(alone, [50, 95], axis=2), axis=1).tolist()
    return [_Clock(*row) for row in zip(np.median(batched, axis=0).tolist(), p50, p95, strict=True)]


def _seconds(subject: Subject, rows: HeldOut) -> float:
    tokens = rows.read_by(subject)
    start = time.perf_counter()
    ask(subject.encoder, tokens, subject.encoder.voice, subject.dtype)
    return time.perf_counter() - start
