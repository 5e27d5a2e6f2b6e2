"""Several processes that make one artifact together, each on a device of its own.

`--processes 4` starts them on one machine, `torchrun` on several: they are told apart by its
environment variables (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`). The first one leads: it alone holds
locks and writes what is no part of the store.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from signal import SIGTERM
from typing import IO, TYPE_CHECKING, TypeVar

from kdpipe import io, stop
from kdpipe.progress import set_quiet

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

T = TypeVar("T")
_MEETING = "KDPIPE_MEETING"
"""A file by which processes that `start` started find each other."""
_PATIENCE = timedelta(days=7)
"""One may have a block to read while the others have none."""
_DESERTED = 97
"""Exit code of a process whose fellows are gone."""
_GRACE = 5.0
"""Seconds."""


@dataclass(frozen=True)
class Group:
    """The processes of one command; one alone is a group too."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the first one."""
        return self.rank == 0

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This process' share of what there is to do."""
        return items[self.rank :: self.size]

    def add_up(self, values: Tensor) -> None:
        """Put the sum over all processes in place of `values`, on whatever device they are."""
        if self.size > 1:
            from torch import distributed

            try:
                distributed.all_reduce(values)
            except RuntimeError:
                # Another process is gone, and says why.
                raise SystemExit(_DESERTED) from None

    def add_up_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Put the sum over all processes in place of each gradient.

        Those that no process has stay None, so that nothing moves such a parameter.
        """
        if self.size == 1:
            return
        import torch

        device = parameters[0].device
        there = torch.tensor([one.grad is not None for one in parameters], device=device).float()
        self.add_up(there)
        found = [one for one, count in zip(parameters, there.tolist(), strict=True) if count]
        if not found:
            return
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in found]
        together = torch.cat([one.reshape(-1) for one in gradients])
        self.add_up(together)
        for one, part in zip(found, together.split([one.numel() for one in found]), strict=True):
            one.grad = part.view_as(one)

    def agreed(self, signal: int | None) -> int | None:
        """A signal that this process or another one got; the largest of several."""
        if self.size == 1:
            return signal
        import torch

        seen = torch.zeros(SIGTERM + 1)
        seen[signal or 0] = 1.0
        self.add_up(seen)
        return int(seen.nonzero().max()) or None

    @contextlib.contextmanager
    def lock(self, path: Path, what: str, *, shared: bool = False) -> Iterator[None]:
        """Hold `path` for all of them together; raises LockedError as `io.lock` does."""
        held = io.lock(path, what, shared=shared) if self.leads else contextlib.nullcontext()
        with held:
            self.wait()
            yield
            self.wait()

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            import torch

            # A barrier of its own would take a GPU for itself.
            self.add_up(torch.zeros(1))


_here = [Group()]


def here() -> Group:
    """The processes that this one works with."""
    return _here[-1]


def is_member() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int | None:
    """The number of this process among those of this machine; None where there is one alone."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_member() else None


@contextlib.contextmanager
def together() -> Iterator[Group]:
    """While it lasts the processes of this command know of each other, as `here` says."""
    if not is_member():
        yield here()
        return
    import torch
    from torch import distributed

    meeting = os.environ.get(_MEETING)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        init_method="env://" if meeting is None else Path(meeting).as_uri(),
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )
    if rank > 0:
        set_quiet(True)
    _here.append(Group(rank, size))
    try:
        yield here()
    finally:
        _here.pop()
        distributed.destroy_process_group()


def share_among(count: int) -> None:
    """Leave this very command to so many processes, and end as they do; return where it is one.

    The leader alone speaks; of another one that fails what it said last is shown.
    """
    if count > 1 and not is_member():
        raise SystemExit(_start(count))


def _start(count: int) -> int:
    """The exit code of the first that fails, or 0."""
    cores = str(max(1, (os.cpu_count() or 1) // count))
    command = [sys.executable, "-m", "kdpipe", *sys.argv[1:]]
    running, heard = list[subprocess.Popen[bytes]](), list[IO[bytes]]()
    with contextlib.ExitStack() as stack:
        meeting = Path(stack.enter_context(tempfile.TemporaryDirectory()), "meeting")
        common = {"OMP_NUM_THREADS": cores, **os.environ, "WORLD_SIZE": str(count)}
        # Without a network, too.
        common |= {_MEETING: str(meeting), "GLOO_SOCKET_IFNAME": "lo"}
        stack.callback(_end, running)
        for number in map(str, range(count)):
            heard.append(stack.enter_context(tempfile.TemporaryFile()))
            errors = heard[-1] if running else None
            own = common | {"RANK": number, "LOCAL_RANK": number}
            # In a session of its own Ctrl-C reaches it through this process, once.
            running.append(
                subprocess.Popen(command, env=own, stderr=errors, start_new_session=True)
            )
        _wait(running)
        _end(running)
        codes = [process.returncode for process in running]
        # A process that another one takes along is no cause.
        causes = [code for code in codes if code not in {0, _DESERTED, -SIGTERM, 128 + SIGTERM}]
        code = next(iter(causes or [code for code in codes if code]), 0)
        rank = codes.index(code)
        heard[rank].seek(0)
        sys.stderr.write(heard[rank].read().decode("utf-8", "replace") if code else "")
        return code if code >= 0 else 128 - code


def _wait(running: list[subprocess.Popen[bytes]]) -> None:
    """Until all are done, or one has failed; a signal is handed on, and then all are waited for."""
    told = False
    with stop.deferred() as signal:
        while any(process.poll() is None for process in running):
            if not told and (wish := signal()) is not None:
                told = True
                for process in running:
                    process.send_signal(wish)
            if not told and any(process.poll() for process in running):
                return
            time.sleep(0.1)


def _end(running: list[subprocess.Popen[bytes]]) -> None:
    """Let them end by themselves, as one does whose fellow is gone; then make them."""
    for way in (None, subprocess.Popen.terminate, subprocess.Popen.kill):
        until = time.monotonic() + _GRACE
        for process in running:
            if way is not None and process.poll() is None:
                way(process)
        while time.monotonic() < until and any(process.poll() is None for process in running):
            time.sleep(0.05)
