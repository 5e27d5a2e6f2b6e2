"""`kdpipe repro`: write dvc.yaml from the pipeline file, then let DVC run what is out of date."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kdpipe.pipeline import Pipeline

_RUNNING = "KDPIPE_REPRO"
"""Set for stages that this command runs: it shows the tables itself, at the end."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ONE_AND_THE_SAME = 1.0
"""Seconds in which signals count once: many senders signal the process and its group."""


def repro(
    pipeline: Annotated[
        str | None,
        typer.Argument(metavar="PIPELINE", help="The pipeline file; none: the one that is here."),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="STAGES", help="Such as train-small; none: all."),
    ] = None,
) -> None:
    """Run every stage of a pipeline that is out of date, by DVC, and show all students.

    Writes dvc.yaml from the pipeline file and makes the folder a DVC project where it is none.

    Example: kdpipe repro pipelines/demo.yaml
    """
    from kdpipe.dvc_left import removed
    from kdpipe.pipeline import load_pipeline
    from kdpipe.progress import is_quiet

    root = Path()
    words = [word for word in (pipeline, *(targets or [])) if word is not None]
    named = words and (words[0].endswith((".yaml", ".yml")) or Path(words[0]).is_file())
    path = Path(words.pop(0)) if named else _pipeline_here(root)
    loaded = load_pipeline(path)
    dvc, environment = _dvc()
    chosen = _write_dvc_yaml(loaded, path, root, words)
    _ensure_project(root, dvc, environment)
    command = [*dvc, "repro", *(["-q"] if is_quiet() else []), *chosen]
    code = _run(command, environment)
    if code and removed(root):
        code = _run(command, environment)
    if code:
        raise typer.Exit(code)
    made = [name for name in loaded.students if (root / f"reports/{name}/table.tsv").is_file()]
    if made:
        from kdpipe.report import show_tables

        show_tables(root, made)


def _pipeline_here(root: Path) -> Path:
    """The file that dvc.yaml was written from, or the only pipeline file; raises UsageError."""
    from kdpipe import dvc
    from kdpipe.errors import UsageError

    written = root / dvc.FILE
    named = dvc.written_from(written.read_text("utf-8")) if written.is_file() else None
    if named is not None and (root / named).is_file():
        return root / named
    found = [*root.glob("pipeline.yaml"), *sorted(root.glob("pipelines/*.yaml"))]
    if not found:
        raise UsageError("no pipeline file is here: 'kdpipe init my.txt' writes one")
    if len(found) > 1:
        names = ", ".join(path.as_posix() for path in found)
        raise UsageError(f"several pipeline files are here: name one of {names}")
    return found[0]


def _dvc() -> tuple[list[str], dict[str, str]]:
    """How to call DVC, and an environment in which its shell finds kdpipe; raises UsageError.

    A virtual environment need not be active: its folder of programs comes first in PATH.
    """
    from kdpipe.errors import UsageError

    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", _RUNNING: "1"}
    if importlib.util.find_spec("dvc"):
        # -P: no file of the project may stand in for a module of Python.
        return [sys.executable, "-P", "-m", "dvc"], environment
    program = shutil.which("dvc", path=path)
    if program is None:
        raise UsageError("DVC is not installed: pip install 'kdpipe[dvc]'")
    return [program], environment


def _write_dvc_yaml(loaded: Pipeline, path: Path, root: Path, targets: list[str]) -> list[str]:
    """Bring dvc.yaml up to date; the names of the stages that `targets` mean."""
    from kdpipe import dvc, io
    from kdpipe.errors import UsageError

    chosen = dvc.choose(dvc.stages(loaded, path, root), targets)
    text = dvc.dvc_yaml(loaded, path, root)
    file = root / dvc.FILE
    before = file.read_text("utf-8") if file.is_file() else None
    if before is not None and dvc.written_from(before) is None:
        raise UsageError(
            "dvc.yaml here was not written by kdpipe: move it away, or run kdpipe in another folder"
        )
    if before is None:
        dvc.ignore(root)
    if before != text:
        io.write_file(file, text.encode("utf-8"))
    return chosen


def _ensure_project(root: Path, dvc: list[str], environment: dict[str, str]) -> None:
    """Make `root` a DVC project unless it is in one."""
    from kdpipe.dvc_left import dvc_folder

    above = (root.resolve(), *root.resolve().parents)
    project = dvc_folder(root)
    git = next((folder for folder in above if (folder / ".git").exists()), None)
    if project is None:
        how = ["--no-scm"] if git is None else [] if git == above[0] else ["--subdir"]
        first = ["init", "-q", *how]
    elif git is None and not (project / "config").is_file():
        # Where 'dvc init' died: DVC would ask for a git repository.
        first = ["config", "-q", "core.no_scm", "true"]
    else:
        return
    for words in (first, ["config", "-q", "core.analytics", "false"]):
        code = _run([*dvc, *words], environment)
        if code:
            raise typer.Exit(code)


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Run a command and all that it starts to the end, also when this process is told to end.

    DVC dies of SIGTERM and leaves its stage running; on SIGINT it waits for the stage, which keeps
    what is finished. So a signal goes to the whole group as SIGINT, and is obeyed here after that.
    What the command prints is progress, so it goes to stderr.
    """
    ignored = {number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_IGN}
    caught: list[tuple[int, float]] = []
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number in ignored or (caught and now - caught[-1][1] < _ONE_AND_THE_SAME):
            return
        caught.append((number, now))
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGINT if len(caught) == 1 else signal.SIGTERM)

    # Handlers first: a child inherits an ignored signal, but not a handler.
    before = {number: signal.signal(number, forward) for number in _SIGNALS}
    try:
        children.append(subprocess.Popen(command, env=environment, stdout=2, process_group=0))
        if caught:
            os.killpg(children[0].pid, signal.SIGINT)
        code = children[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[0][0])
    return code
