"""What all benchmarks share: works in turns, one table, and a file with every repetition.

Legend: a work is a function that does all of something once; a figure is a ratio of works of the
same run, because a machine may change its speed from minute to minute.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from rich.console import Console
from rich.table import Table

Work = Callable[[], object]
Seconds = dict[str, list[float]]
ROOT = Path(__file__).resolve().parent
PEERS = ROOT.parent / ".venv-peers" / "bin" / "python"
"""The Python that has what kdpipe is measured beside; `run.py bench` makes it."""
_OF_PEERS = {
    "CUDA_VISIBLE_DEVICES": "",  # some take a GPU unasked
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
_VERSIONS = ("torch", "transformers", "tokenizers", "pyarrow", "sentence-transformers")


class Figure(NamedTuple):
    """What a benchmark is run for."""

    what: str
    value: float
    least: float | None = None
    """The aim, where more is better."""
    most: float | None = None
    """The aim, where less is better."""
    unit: str = "x"

    @property
    def reached(self) -> bool | None:
        """Whether the aim is; None without one."""
        if self.least is not None:
            return self.value >= self.least
        return None if self.most is None else self.value <= self.most


class Size(NamedTuple):
    """How much there is of what a work is about, so that its rate can be told."""

    amount: int
    unit: str
    """`tokens`, `rows`, `bytes`, ..."""


def in_turns(works: Mapping[str, Work], repetitions: int, *, warm: bool = True) -> Seconds:
    """Seconds of every repetition: all works once, then all once more; `warm` adds a first round.

    The first round is not measured.
    """
    seconds: Seconds = {name: [] for name in works}
    for number in range(repetitions + warm):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            took = time.perf_counter() - begin
            if number >= warm:
                seconds[name].append(took)
    return seconds


def times_as_fast(seconds: Seconds, one: str, other: str) -> float:
    """How many times as fast `one` is as `other`: the median over the rounds."""
    return statistics.median(b / a for a, b in zip(seconds[one], seconds[other], strict=True))


def report(
    name: str,
    seconds: Seconds,
    figures: Sequence[Figure],
    *,
    sizes: Mapping[str, Any],
    per: Size | Mapping[str, Size] | None = None,
) -> None:
    """Print the table and write `benchmarks/results/<machine>/<name>.json`.

    `sizes` says what was measured: rows, tokens, threads, dtype. `per` gives rates, of all works or
    of those that it names.
    """
    rates = per if isinstance(per, Mapping) else dict.fromkeys(seconds, per)
    console, said = Console(highlight=False), ", ".join(f"{k} {_said(v)}" for k, v in sizes.items())
    table = Table("work", title=f"{name}: {said}", title_justify="left")
    for column in ("median", "least", "rate"):
        table.add_column(column, justify="right")
    for work, times in seconds.items():
        middle, size = statistics.median(times), rates.get(work)
        rate = "" if size is None else f"{size.amount / middle:,.0f} {size.unit}/s"
        table.add_row(work, f"{middle:.3f} s", f"{min(times):.3f} s", rate)
    console.print(table)
    for one in figures:
        aim = "" if one.reached is None else f" (aim {one.least or one.most:g}"
        aim += {None: "", True: ", reached)", False: ", not reached)"}[one.reached]
        console.print(f"{one.what}: {one.value:.4g} {one.unit}{aim}")
    record = {
        "benchmark": name,
        "machine": machine(),
        "versions": {"python": platform.python_version()} | _installed(),
        "sizes": dict(sizes),
        "seconds": {work: [round(one, 6) for one in times] for work, times in seconds.items()},
        "rates": {work: size._asdict() for work, size in rates.items() if size is not None},
        "figures": [one._asdict() | {"reached": one.reached} for one in figures],
    }
    path = ROOT / "results" / slug() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console.print(path.relative_to(ROOT.parent).as_posix())


def machine() -> dict[str, Any]:
    """The processor and what there is of it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _cpu("model name") or platform.machine(),
        "family and model": [_cpu("cpu family"), _cpu("model")],
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.system(),
    }


def slug() -> str:
    """The folder of a machine's results: `amd-epyc-25-17-2-cores`, with its family and model."""
    told = machine()
    family = " ".join(filter(None, told["family and model"]))
    words = f"{told['processor']} {family} {told['cores']} cores"
    return "-".join(re.findall("[a-z0-9]+", words.lower()))


class Peer:
    """A program of `benchmarks/peers/` in the environment of the peers, as a work.

    It says `ready` once it can begin, and `done` after each work, which is a line to it.
    """

    def __init__(self, script: str, *arguments: str) -> None:
        if not PEERS.exists():
            raise SystemExit("the peers are not installed: python3 run.py bench NAME does that")
        # As a module: a script's folder comes before the standard library and the peers themselves.
        command = [str(PEERS), "-m", f"benchmarks.peers.{script}", *arguments]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            text=True,
            cwd=ROOT.parent,
            env=os.environ | _OF_PEERS,
        )
        self._expect("ready")

    def __call__(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self._expect("done")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == word:
                return
        raise SystemExit(f"a peer ended before it said {word!r}: its reason is above")


def _cpu(key: str) -> str:
    """What Linux tells of the processor; nothing elsewhere."""
    try:
        told = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{key}\s*:\s*(.+)", told, re.MULTILINE)
    return found[1].strip() if found else ""


def _installed() -> dict[str, str]:
    found = {
        one.metadata["Name"].lower(): one.version for one in importlib.metadata.distributions()
    }
    return {name: found[name] for name in _VERSIONS if name in found}


def _said(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
