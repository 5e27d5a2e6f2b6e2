"""How fast training from a cache is beside the same loop whose targets lie ready in memory.

    python -m benchmarks.train_from_cache [--rows 6000] [--steps 20] [--repetitions 9] [FILE ...]

All make the same steps with the same batches of the demo's student. kdpipe begins from nothing each
time, with the plan of the epoch and the first read. *The same loop* takes kdpipe's steps with
batches that are in memory. *The plain loop* has no schedules, no norm of the gradients, no clipping
and no log either. The *limit* is the student alone: forward and backward, with neither targets nor
an optimizer.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import torch

from benchmarks.kit import Figure, Size, in_turns, report, times_as_fast
from benchmarks.scene import STUDENT, made_cache, scene
from kdpipe import job, train
from kdpipe.device import autocast
from kdpipe.loader import Batch, read_batch
from kdpipe.parts import EMBEDDING
from kdpipe.progress import set_quiet
from kdpipe.run import Run
from kdpipe.shares import count_all, share_of

OURS, SAME = "kdpipe, from the cache", "the same loop, targets in memory"
PLAIN = "plain loop, targets in memory"
LIMIT = "limit: the student's forward and backward"


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        project = scene(Path(folder), options.rows, files=options.files, students={"s": STUDENT})
        made = made_cache(project)

        def student() -> Run:
            return job.prepare(project, "s", made.corpus, {"said": made}, "cpu").run

        ours, same, plain, alone = student(), student(), student(), student()
        # The last step of an epoch measures held-out rows, which is no part of a step.
        steps = min(options.steps, train.steps_per_epoch(ours) - 1)
        needs = plain.terms.needs_of_teachers()
        ready = [
            read_batch(plain.corpus, plain.caches, needs, group[0], plain.gold)
            for group in itertools.islice(train.plan(plain, 0), steps)
        ]
        works = {
            OURS: lambda: from_cache(ours, steps),
            SAME: lambda: from_memory(same, ready),
            PLAIN: lambda: bare(plain, ready),
            LIMIT: lambda: student_alone(alone, ready),
        }
        seconds = in_turns(works, options.repetitions)
        real = real_tokens(ours)
    figures = [
        Figure("kdpipe, beside targets in memory", times_as_fast(seconds, OURS, SAME), 0.98),
        Figure("kdpipe, beside a plain loop", times_as_fast(seconds, OURS, PLAIN)),
        Figure("kdpipe, of its limit", times_as_fast(seconds, OURS, LIMIT)),
        Figure("real tokens in a batch", real, 0.95, unit="of 1"),
    ]
    tokens = sum(len(batch.tokens.ids) for batch in ready)
    sizes = {"rows": made.corpus.facts.rows, "steps": steps, "tokens": tokens}
    sizes |= {"tokens a row": round(made.corpus.facts.tokens / made.corpus.facts.rows)}
    sizes |= {"threads": torch.get_num_threads()}
    report(
        "train_from_cache",
        seconds,
        figures,
        sizes={**sizes, "dtype": ours.dtype},
        per=Size(tokens, "tokens"),
    )


def from_cache(run: Run, steps: int) -> None:
    """The first steps of an epoch."""
    run.progress.step = 0
    loop = train.fit(run)
    for _ in itertools.islice(loop, steps):
        pass
    loop.close()  # type: ignore[attr-defined]


def from_memory(run: Run, batches: list[Batch]) -> None:
    """Those steps, with nothing to plan or read."""
    total, epoch = train.total_steps(run), train.steps_per_epoch(run)
    for number, batch in enumerate(batches, start=1):
        train.take_step(run, [batch], number, total, number / epoch)


def bare(run: Run, batches: list[Batch]) -> None:
    """The plain loop."""
    run.student.train()
    needs = run.terms.needs_of_student()
    for batch in batches:
        share = share_of(batch, count_all([batch]))
        with autocast(run.device, run.dtype):
            said = run.student(batch.tokens, needs)
            loss, _ = run.terms(said, batch, progress=0.0, share=share)
        loss.backward()
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)


def student_alone(run: Run, batches: list[Batch]) -> None:
    """Only what no loop around this student can do without."""
    run.student.train()
    for batch in batches:
        with autocast(run.device, run.dtype):
            said = run.student(batch.tokens, frozenset({EMBEDDING}))
        said[EMBEDDING].sum().backward()
        run.optimizer.zero_grad(set_to_none=True)


def real_tokens(run: Run) -> float:
    """Which part of all that is computed in an epoch is no padding."""
    lengths = run.corpus.lengths
    plan = itertools.islice(train.plan(run, 0), train.steps_per_epoch(run))
    batches = [rows for group in plan for rows in group]
    padded = sum(len(rows) * int(lengths[rows].max()) for rows in batches)
    return sum(int(lengths[rows].sum()) for rows in batches) / padded


if __name__ == "__main__":
    main()
