"""What it costs to check every digest before use, beside one epoch of training on the same files.

    python benchmarks/verify.py PIPELINE STUDENT [--steps 20] [--repetitions 5]

Run in the project folder, after `kdpipe cache-teacher`. The files are in the page cache, as after
they were written; where they are not, reading them costs the disk's speed, which the epoch then
does not pay again. The epoch is that of the plan, at the speed of its first steps.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path

from kdpipe import artifact, job, train
from kdpipe.progress import set_quiet
from kdpipe.project import open_project


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("student")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    set_quiet(True)
    project = open_project(options.pipeline)
    corpus, caches = project.inputs(options.student)
    files = [(corpus.folder, file) for file in corpus.manifest.files]
    files += [(cache.folder, file) for cache in caches.values() for file in cache.manifest.files]
    size = sum(file.bytes for _, file in files)
    checks = []
    for _ in range(options.repetitions):
        begin = time.perf_counter()
        for folder, file in files:
            artifact.check(folder, file, "")
        checks.append(time.perf_counter() - begin)
    run = job.prepare(project, options.student, corpus, caches, "cpu").run
    steps = train.fit(run)
    next(steps)
    begin = time.perf_counter()
    tokens = sum(step.tokens for step in itertools.islice(steps, options.steps))
    pace = tokens / (time.perf_counter() - begin)
    epoch = corpus.facts.tokens / pace
    check = statistics.median(checks)
    print(f"{len(files):,} files, {size / 1e6:,.1f} MB, {corpus.facts.tokens:,} tokens an epoch")
    print(f"checking every digest  {check:10.3f} s  {size / check / 1e9:6.2f} GB/s")
    print(f"one epoch              {epoch:10.3f} s  {pace:,.0f} tokens/s")
    print(f"share                  {check / epoch:10.5f}")


if __name__ == "__main__":
    main()
