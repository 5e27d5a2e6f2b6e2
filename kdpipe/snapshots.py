"""The student as it was at its last saves, as model folders that load like the student itself.

`checkpoint-<step>/` lies beside the checkpoints of a run, and in the end within the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdpipe import io
from kdpipe.folder import write_model
from kdpipe.run import Run
from kdpipe.tokenizer import Tokenizer

_PREFIX = "checkpoint-"


def take(runs: Path, run: Run, tokenizer: Tokenizer) -> None:
    """Write the student as it is now, and drop all but the last `save_total_limit`.

    With a limit of 1 there is nothing to write: what a run ends with is the student.
    """
    limit, facts = run.spec.save_total_limit, run.corpus.facts
    if limit == 1:
        return
    folder = runs / f"{_PREFIX}{run.progress.step}"
    write_model(
        folder, run.student, tokenizer, max_seq_length=facts.max_seq_length, prompt=facts.prompt
    )
    for old in taken(runs)[: -limit if limit else 0]:
        io.remove(old)


def taken(runs: Path) -> list[Path]:
    """The folders of all that are left, in the order of their steps."""
    found = runs.glob(f"{_PREFIX}*")
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)))


def copy(snapshots: Sequence[Path], folder: Path) -> list[str]:
    """Copy them into a student's folder; the names of their files there."""
    names = []
    for snapshot in snapshots:
        io.remove(folder / snapshot.name)
        for path in sorted(file for file in snapshot.rglob("*") if file.is_file()):
            name = f"{snapshot.name}/{path.relative_to(snapshot).as_posix()}"
            io.make_folder((folder / name).parent)
            io.write_file(folder / name, path.read_bytes())
            names.append(name)
    return names
