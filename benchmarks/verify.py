"""What it costs to check every digest before use, beside one epoch of training on the same files.

    python -m benchmarks.verify [--rows 6000] [--steps 20] [--repetitions 5] [FILE ...]

The files are in the page cache, as after they were written; where they are not, reading them costs
the disk's speed, which the epoch then does not pay again. The epoch is as long as its first steps
say. The *limit* is to read the same bytes and do nothing with them.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

from benchmarks.kit import Figure, Size, in_turns, report, times_as_fast
from benchmarks.scene import STUDENT, made_cache, scene
from kdpipe import artifact, job, train
from kdpipe.progress import set_quiet
from kdpipe.run import Run

CHECK, LIMIT, STEPS = "every digest", "limit: reading the files", "steps of training"


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        project = scene(Path(folder), options.rows, files=options.files, students={"s": STUDENT})
        made = made_cache(project)
        files = [(one.folder, file) for one in (made.corpus, made) for file in one.manifest.files]
        run = job.prepare(project, "s", made.corpus, {"said": made}, "cpu").run
        steps = min(options.steps, train.steps_per_epoch(run) - 1)
        counted: list[int] = []
        works = {
            CHECK: lambda: [artifact.check(place, file, "") for place, file in files],
            LIMIT: lambda: [(place / file.name).read_bytes() for place, file in files],
            STEPS: lambda: counted.append(trained(run, steps)),
        }
        seconds = in_turns(works, options.repetitions)
    size, tokens = sum(file.bytes for _, file in files), made.corpus.facts.tokens
    share = counted[-1] / tokens / times_as_fast(seconds, CHECK, STEPS)
    figures = [
        Figure("checking, of an epoch", share, unit="of 1"),
        Figure("checking, of its limit", times_as_fast(seconds, CHECK, LIMIT)),
    ]
    rates = dict.fromkeys((CHECK, LIMIT), Size(size, "bytes"))
    sizes = {"rows": made.corpus.facts.rows, "files": len(files), "bytes": size}
    sizes |= {"tokens an epoch": tokens, "steps": steps, "tokens in them": counted[-1]}
    report(
        "verify", seconds, figures, sizes=sizes, per=rates | {STEPS: Size(counted[-1], "tokens")}
    )


def trained(run: Run, steps: int) -> int:
    """The first steps of an epoch; the tokens in them."""
    run.progress.step = 0
    return sum(step.tokens for step in itertools.islice(train.fit(run), steps))


if __name__ == "__main__":
    main()
