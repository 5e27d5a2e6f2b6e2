"""How far `kdpipe plan` is from what then happens: predicted seconds and bytes over real ones.

    python -m benchmarks.plan [--rows 6000] [--epochs 2] [--repetitions 3] [--seconds 10]

In each repetition a new folder gets a pipeline file with one cache of embeddings and one of hidden
states, and a student of each. Its plan is made while nothing is there; then `kdpipe tokenize`,
`cache-teacher` and `train` are run. All is done once before with a few rows, so that no stage loads
a library in its time. There is no limit to compare with: a figure is how far a ratio is from 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.kit import Figure, Seconds, report
from benchmarks.scene import EMBEDDINGS, TEACHER
from kdpipe.device import pick_device
from kdpipe.planning import forecast
from kdpipe.progress import set_quiet
from kdpipe.project import open_project
from kdpipe.stages.cache_teacher import cache_teacher
from kdpipe.stages.tokenize_corpus import tokenize
from kdpipe.stages.train_student import train

STAGES: dict[str, Callable[[Path], None]] = {
    "tokenize": tokenize,
    "cache-teacher": cache_teacher,
    "train": train,
}
FILE = Path("bench.yaml")
FEW = 300
"""Rows of what is done before."""
MOST = 0.2
"""How far a prediction may be from what happens."""
_FROM_1 = "predicted / real, from 1"


def pipeline(rows: int, epochs: float) -> dict[str, Any]:
    """Two caches of one corpus, a student of each."""
    model = {"kind": "teacher_layers", "layers": [1, 3, 6]}
    settings = {"num_train_epochs": epochs, "tokens_per_batch": 2048}
    states = {**EMBEDDINGS, "targets": [{"kind": "hidden", "layers": [2, 4, 6]}]}

    def student(cache: str, objective: Mapping[str, Any]) -> dict[str, Any]:
        return {"caches": [cache], "model": model, "objectives": [objective], "train": settings}

    return {
        "corpora": {
            "c": {"sources": [{"kind": "python_docs"}], "tokenizer": "t", "max_rows": rows}
        },
        "teachers": {"t": TEACHER},
        "caches": {"said": EMBEDDINGS, "states": states},
        "students": {
            "of-said": student("said", {"kind": "embedding", "loss": "cosine"}),
            "of-states": student("states", {"kind": "hidden", "layers": {1: 2, 2: 4, 3: 6}}),
        },
    }


def measure(rows: int, epochs: float, seconds: float) -> tuple[Seconds, dict[str, tuple[int, int]]]:
    """Seconds of each stage as predicted and as it is, and both numbers of bytes."""
    found: Seconds = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        FILE.write_text(json.dumps(pipeline(rows, epochs)), encoding="utf-8")
        begin = time.perf_counter()
        told = forecast(open_project(FILE), pick_device(), seconds)
        found["the plan itself"] = [time.perf_counter() - begin]
        for name, stage in STAGES.items():
            begin = time.perf_counter()
            stage(FILE)
            found[name] = [time.perf_counter() - begin]
            found[f"{name}, predicted"] = [told.seconds[name]]
        (text,) = told.corpora
        sizes = {
            "a corpus": (text.bytes, size_of(Path("artifacts/corpora"))),
            "caches": (told.bytes - text.bytes, size_of(Path("artifacts/caches"))),
        }
    return found, sizes


def size_of(folder: Path) -> int:
    """Bytes of all blocks and shards."""
    files = (path for path in folder.rglob("*") if path.suffix in {".arrow", ".safetensors"})
    return sum(path.stat().st_size for path in files)


def main() -> None:
    """Predict, do, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    set_quiet(True)
    measure(min(FEW, options.rows), 1.0, 0.0)
    every: Seconds = {}
    for _ in range(options.repetitions):
        found, sizes = measure(options.rows, options.epochs, options.seconds)
        for name, times in found.items():
            every.setdefault(name, []).extend(times)
    figures = [off(every, name) for name in STAGES]
    for what, (told, real) in sizes.items():
        figures.append(
            Figure(f"bytes of {what}: {_FROM_1}", abs(told / real - 1), most=MOST, unit="")
        )
    threads = torch.get_num_threads()
    sizes_told = {"rows": options.rows, "epochs": options.epochs, "threads": threads}
    report("plan", every, figures, sizes=sizes_told | {"probe": f"{options.seconds:g} s"})


def off(every: Seconds, stage: str) -> Figure:
    """How far the median ratio of a stage is from 1."""
    pairs = zip(every[f"{stage}, predicted"], every[stage], strict=True)
    ratio = statistics.median(told / real for told, real in pairs)
    return Figure(f"{stage}: {_FROM_1} ({ratio:.2f})", abs(ratio - 1), most=MOST, unit="")


if __name__ == "__main__":
    main()
