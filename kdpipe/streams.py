"""Several forward passes at a time: on a CPU one for each core, each on a single thread.

Passes over small batches do not share cores well: two passes on a core each are faster than one
after the other on two cores, and what they compute does not depend on how many cores there are.
Whoever waits for them computes on one thread as well: a team of threads that has just helped with
something small goes on spinning for a while, on the cores that the passes need.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def streams(device: torch.device) -> Iterator[Executor]:
    """An executor for forward passes on `device`; what has not begun when it ends is dropped."""
    cores = torch.get_num_threads() if device.type == "cpu" else 1
    pool = ThreadPoolExecutor(cores, "stream", _alone if device.type == "cpu" else None)
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        if device.type == "cpu":
            # The number is kept for new threads and for some libraries, not for one thread alone.
            torch.set_num_threads(cores)


def _alone() -> None:
    torch.set_num_threads(1)
