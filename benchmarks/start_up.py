"""How long it takes until kdpipe answers: `--help` of every command, and stages with nothing to do.

    python -m benchmarks.start_up [--rows 300] [--repetitions 5]

Every work is a process of its own. The *limit* is the same Python with what draws the help, and
nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.kit import Figure, Work, in_turns, report
from benchmarks.scene import STUDENT, kdpipe, planned, run
from kdpipe.cli import stages

LIMIT = "limit: python -c 'import typer, rich'"
_PYTHON = "python -c pass"
_STAGES = ("tokenize", "cache-teacher", "train", "evaluate")


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    student = STUDENT | {"train": {"max_steps": 1}, "evaluate": [{"kind": "fidelity"}]}
    with tempfile.TemporaryDirectory() as folder:
        project = planned(Path(folder), options.rows, students={"s": student})
        commands = {_PYTHON: [sys.executable, "-c", "pass"]}
        commands[LIMIT] = [sys.executable, "-c", "import typer, rich"]
        helps = {"kdpipe --help": kdpipe("--help")}
        helps |= {f"kdpipe {name} --help": kdpipe(name, "--help") for name in stages()}
        file = str(project.file)
        nothing = {f"kdpipe {name}, up to date": kdpipe(name, file) for name in _STAGES}
        for command in nothing.values():
            run(command, project.root)
        commands |= helps | nothing

        def work(words: list[str]) -> Work:
            return lambda: run(words, project.root)

        seconds = in_turns(
            {name: work(words) for name, words in commands.items()}, options.repetitions
        )
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    slowest = max(helps, key=middle.__getitem__)
    figures = [
        Figure(f"the slowest help ({slowest})", middle[slowest], most=0.5, unit="s"),
        *(Figure(name, middle[name], most=1.0, unit="s") for name in nothing),
    ]
    report("start_up", seconds, figures, sizes={"rows": options.rows, "commands": len(helps)})


if __name__ == "__main__":
    main()
