"""How memory and time grow with the rows of a corpus: tokenize, cache-teacher and train.

    python -m benchmarks.peak_memory [--rows 20000] [--times 1 10 100]

Rows are very short, and teacher and student very small, so that millions of rows take minutes.
Every stage is a process of its own, whose anonymous memory (RssAnon, looked at 100 times a second)
is what counts: that is what a machine has to have. VmHWM would also count files that are mapped,
shards and libraries, which the kernel takes back whenever others need the room, so it grows with
what there is and not with what is needed; it stands beside. The *limit* is what the stage takes
with next to no rows.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path

from benchmarks.kit import Figure, Size, report
from benchmarks.scene import EMBEDDINGS, Ran, kdpipe, made_texts, planned, random_teacher, run

STAGES = ("tokenize", "cache-teacher", "train")
_FLAT = 1.1
_LARGE = 5_000_000
"""Rows whose memory is foretold."""
_FEW = 500
STUDENT = {
    "caches": ["said"],
    "model": {"kind": "teacher_layers", "layers": [1]},
    "objectives": [{"kind": "embedding"}],
    "train": {"tokens_per_batch": 4096, "max_steps": 200},
}


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10, 100])
    options = parser.parse_args()
    counts = [options.rows * times for times in sorted(set(options.times))]
    if len(counts) < 2:
        parser.error("--times takes two numbers at least: growth is from one size to another")
    with tempfile.TemporaryDirectory() as folder:
        teacher = random_teacher(Path(folder) / "teacher", layers=1, width=32, heads=2)
        model = sum(file.stat().st_size for file in teacher.glob("*.safetensors"))
        made = {rows: stages(Path(folder), teacher, rows) for rows in (_FEW, *counts)}
    seconds, per = dict[str, list[float]](), dict[str, Size]()
    for stage in STAGES:
        for rows in counts:
            name = f"{stage}, {rows:,} rows"
            seconds[name] = [made[rows][stage].seconds]
            # The steps of train are as many for any corpus.
            per |= {} if stage == "train" else {name: Size(rows, "rows")}
    sizes = {"rows": counts[0], "at most": counts[-1], "bytes of the model": model}
    report("peak_memory", seconds, figures(made, counts, model), sizes=sizes, per=per)


def stages(folder: Path, teacher: Path, rows: int) -> dict[str, Ran]:
    """What each stage took, of a project of its own."""
    root = folder / f"rows-{rows}"
    root.mkdir()
    text = str(made_texts(root / "text.txt", rows))
    caches = {"said": {**EMBEDDINGS, "dtype": "fp32"}}
    planned(
        root,
        rows,
        files=[text],
        caches=caches,
        students={"s": STUDENT},
        model={"model": str(teacher)},
    )
    return {stage: run(kdpipe(stage, "bench.yaml"), root, watch=True) for stage in STAGES}


def figures(made: dict[int, dict[str, Ran]], counts: list[int], model: int) -> list[Figure]:
    """Growth of memory and of time, from size to size."""
    found = []
    for stage in STAGES:
        took = {rows: ran[stage].anonymous for rows, ran in made.items()}
        for rows, ran in made.items():
            what = f"{stage}, {rows:,} rows: memory"
            found.append(Figure(what, ran[stage].anonymous / 1e6, unit="MB"))
            found.append(Figure(f"{what} with files", ran[stage].resident / 1e6, unit="MB"))
        for one, other in pairwise(counts):
            growth = (took[other] - model) / (took[one] - model)
            what = f"{stage}: memory beside the model, {other:,} rows beside {one:,}"
            found.append(Figure(what, growth, most=_FLAT))
        # Noise can make it less than nothing.
        slope = max(0.0, (took[counts[-1]] - took[counts[0]]) / (counts[-1] - counts[0]))
        foretold = took[counts[-1]] - model + slope * (_LARGE - counts[-1])
        found.append(Figure(f"{stage}: memory of a row more", slope, unit="bytes"))
        what = f"{stage}: memory beside the model at {_LARGE:,} rows, foretold"
        found.append(Figure(what, foretold / 1e9, most=2.0, unit="GB"))
    for stage in STAGES[:2]:
        rates = [
            (made[other][stage].seconds - made[one][stage].seconds) / (other - one)
            for one, other in pairwise(counts)
        ]
        if len(rates) > 1:
            what = f"{stage}: time of a row more, from {counts[-2]:,} rows on, beside the first"
            found.append(Figure(what, rates[-1] / rates[0]))
    return found


if __name__ == "__main__":
    main()
