"""What part of a step each batch is, so that the losses of all its batches add up to a mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import get_args

import torch

from kdpipe.loader import Batch
from kdpipe.objectives.base import Unit
from kdpipe.processes import here


def count_all(batches: Iterable[Batch]) -> Counter[Unit]:
    """How much there is of each unit in the batches of all processes; these are of this one."""
    mine, units = sum((batch.count() for batch in batches), Counter[Unit]()), get_args(Unit)
    counts = torch.tensor([mine[unit] for unit in units])
    here().add_up(counts)
    return Counter(dict(zip(units, counts.tolist(), strict=True)))


def share_of(batch: Batch, whole: Counter[Unit]) -> dict[Unit, float]:
    """What part of the whole a batch is, for each unit."""
    part = batch.count()
    # There may be nothing masked, and no label.
    return {unit: part[unit] / max(1, whole[unit]) for unit in get_args(Unit)}
