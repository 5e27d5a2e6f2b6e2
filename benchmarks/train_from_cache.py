"""How fast training from a cache is beside a plain loop whose targets lie ready in memory.

    python benchmarks/train_from_cache.py PIPELINE STUDENT [--steps 40] [--repetitions 5]

Run in the project folder, after `kdpipe cache-teacher`. Both make the same steps with the same
batches; the plain loop has no reading, no checks, no schedules, no clipping and no log. The
repetitions are interleaved; the figure is the plain loop's time over ours.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path

import torch

from kdpipe import job, train
from kdpipe.device import autocast
from kdpipe.loader import Batch, read_batch
from kdpipe.progress import set_quiet
from kdpipe.project import open_project
from kdpipe.run import Run


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("student")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    set_quiet(True)
    project = open_project(options.pipeline)
    corpus, caches = project.inputs(options.student)
    ours = job.prepare(project, options.student, corpus, caches, "cpu").run
    plain = job.prepare(project, options.student, corpus, caches, "cpu").run
    needs = plain.terms.needs_of_teachers()
    ready = [
        read_batch(corpus, plain.caches, needs, group[0], plain.gold)
        for group in itertools.islice(train.plan(plain, 0), options.steps)
    ]
    tokens = sum(len(batch.tokens.ids) for batch in ready)
    padded = sum(batch.tokens.mask().numel() for batch in ready)
    ratios, rates = [], []
    steps = train.fit(ours)
    next(steps)
    for _ in range(options.repetitions + 1):
        begin = time.perf_counter()
        bare(plain, ready)
        middle = time.perf_counter()
        done = sum(step.tokens for step in itertools.islice(steps, options.steps))
        end = time.perf_counter()
        rates.append((tokens / (middle - begin), done / (end - middle)))
        ratios.append(rates[-1][1] / rates[-1][0])
    plain_rate, our_rate = (statistics.median(r[side] for r in rates[1:]) for side in (0, 1))
    print(f"{options.steps} steps, {torch.get_num_threads()} threads, {ours.dtype}, medians of")
    print(f"{options.repetitions} repetitions; {tokens / padded:.1%} of a batch are real tokens")
    print(f"plain loop, targets in memory  {plain_rate:9,.0f} tokens/s")
    print(f"kdpipe, from the cache         {our_rate:9,.0f} tokens/s")
    print(f"ratio                          {statistics.median(ratios[1:]):9.3f}")


def bare(run: Run, batches: list[Batch]) -> None:
    """The plain loop."""
    run.student.train()
    needs = run.terms.needs_of_student()
    share = {"rows": 1.0, "tokens": 1.0}
    for batch in batches:
        with autocast(run.device, run.dtype):
            said = run.student(batch.tokens, needs)
            loss, _ = run.terms(said, batch.teachers, progress=0.0, share=share)
        loss.backward()
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
