"""How the cost grows: with rows, tokens of a row, layers kept, students and epochs.

    python -m benchmarks.growth [--rows 180 1800 18000] [--some 1200] [--repetitions 3]

The teacher is the demo's, in memory already, and reads the standard library's sentences to shards
on disk; rows go over a hundredfold range, the rest is measured with some of them. A figure is a
cost beside that of the smallest work of its kind, and how many times as much there was: equal
numbers mean that the cost grows as what it is made of does. Students are whole trainings, from the
cache to a folder that loads. There is no limit here: other benchmarks have one for each stage.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.kit import Figure, Seconds, Work, in_turns, report
from benchmarks.scene import EMBEDDINGS, FILE, STUDENT, again, cache, scene, texts_of
from kdpipe import io
from kdpipe.encoder import Encoder
from kdpipe.progress import set_quiet
from kdpipe.project import Project
from kdpipe.stages.train_student import train
from kdpipe.store import Store

KEPT = {1: [6], 3: [2, 4, 6], 6: [1, 2, 3, 4, 5, 6]}
"""Layers, by how many."""
JOINED = (1, 2, 4, 8)
"""Texts that become one row."""
EPOCHS = (1, 2, 4)
STUDENTS = (1, 2, 4)


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[180, 1800, 18_000])
    parser.add_argument("--some", type=int, default=1200)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        bench = Bench(Path(folder), options.some)
        groups = {
            "rows": bench.rows(sorted(options.rows)),
            "tokens of a row": bench.tokens(),
            "layers": bench.layers(),
            "students": bench.students(),
            "epochs": bench.epochs(),
        }
        works = {
            f"{what}: {size:,}": work
            for what, group in groups.items()
            for size, (_, work) in group.items()
        }
        seconds = in_turns(works, options.repetitions)
    found = [one for what, group in groups.items() for one in figures(what, group, seconds)]
    sizes = {"rows": max(options.rows), "some": options.some, "threads": torch.get_num_threads()}
    report("growth", seconds, found, sizes=sizes)


Group = dict[int, tuple[int, Work]]
"""By size: what it is made of (tokens read, bytes kept, steps made), and the work."""


class Bench:
    """Works of each kind."""

    def __init__(self, root: Path, some: int) -> None:
        self._root, self._some = root, some
        self._encoder: Encoder = scene(self._fresh("first"), 9).teacher("t").load()

    def rows(self, counts: list[int]) -> Group:
        """The teacher reads more and more rows; counted in tokens."""
        made = {rows: scene(self._fresh(f"rows-{rows}"), rows) for rows in counts}
        return {rows: (tokens_of(project), self._cached(project)) for rows, project in made.items()}

    def tokens(self) -> Group:
        """The same texts in fewer and longer rows; counted in tokens, which stay as many."""
        texts, found = texts_of(scene(self._fresh("texts"), self._some)), Group()
        for joined in JOINED:
            root = self._fresh(f"joined-{joined}")
            groups = (texts[first : first + joined] for first in range(0, len(texts), joined))
            lines = (" ".join(" ".join(group).split()) for group in groups)
            (root / "text.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")
            project = scene(root, self._some, files=[str(root / "text.txt")])
            facts = project.corpus("c").facts
            found[round(facts.tokens / facts.rows)] = facts.tokens, self._cached(project)
        return found

    def layers(self) -> Group:
        """More and more of what the teacher says is kept; counted in bytes."""
        found = Group()
        for count, layers in KEPT.items():
            spec = {**EMBEDDINGS, "targets": [{"kind": "hidden", "layers": layers}]}
            root = self._fresh(f"layers-{count}")
            project = scene(root, self._some, caches={"said": spec})
            width = self._encoder.dims.hidden
            found[count] = 2 * width * count * tokens_of(project), self._cached(project)
        return found

    def students(self) -> Group:
        """More and more students of one cache; counted in students."""
        root = self._fresh("students")
        names = [f"s{number}" for number in range(max(STUDENTS))]
        self._trained(root, {name: STUDENT for name in names})
        return {count: (count, trains(root, names[:count])) for count in STUDENTS}

    def epochs(self) -> Group:
        """Longer and longer trainings; counted in epochs."""
        root = self._fresh("epochs")
        students: dict[str, Any] = {}
        for epochs in EPOCHS:
            settings = {**STUDENT["train"], "num_train_epochs": epochs}
            students[f"e{epochs}"] = {**STUDENT, "train": settings}
        self._trained(root, students)
        return {epochs: (epochs, trains(root, [f"e{epochs}"])) for epochs in EPOCHS}

    def _trained(self, root: Path, students: dict[str, Any]) -> None:
        settings = {"num_train_epochs": 1}
        whole = {name: {**one, "train": settings | one["train"]} for name, one in students.items()}
        cache(scene(root, self._some, students=whole), load=again(self._encoder))

    def _cached(self, project: Project) -> Work:
        """Arrow to shards in a new store."""
        load, identity = again(self._encoder), project.teacher("t").identity

        def work() -> None:
            with tempfile.TemporaryDirectory(dir=project.root) as root:
                cache(project, identity=identity, load=load, store=Store(Path(root)))

        return work

    def _fresh(self, name: str) -> Path:
        folder = self._root / name
        folder.mkdir()
        return folder


def trains(root: Path, names: list[str]) -> Callable[[], None]:
    """`kdpipe train` of some students, to folders that are not there."""

    def work() -> None:
        for name in names:
            io.remove(root / "artifacts" / "students" / name)
        with contextlib.chdir(root):
            train(FILE, names, device="cpu")

    return work


def tokens_of(project: Project) -> int:
    """Of its corpus."""
    return project.corpus("c").facts.tokens


def figures(what: str, group: Group, seconds: Seconds) -> list[Figure]:
    """From each size to the next: how many times as much, and how many times as long."""
    found = []
    for one, other in pairwise(group):
        times = statistics.median(
            b / a
            for a, b in zip(seconds[f"{what}: {one:,}"], seconds[f"{what}: {other:,}"], strict=True)
        )
        more = group[other][0] / group[one][0]
        found.append(Figure(f"{what}, {one:,} to {other:,}: {more:.3g} times as much takes", times))
    return found


if __name__ == "__main__":
    main()
