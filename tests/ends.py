"""What the tests of bad ends share: a project, the command line, and how a run may end badly."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from transformers.utils.logging import disable_progress_bar

from kdpipe import cli, fill_blocks
from tests import pieces
from tests.trials import FORKS, PRELOAD

Capture = pytest.CaptureFixture[str]
FILE = Path(pieces.FILE)
PIPELINE = pieces.PIPELINE.format(
    validation=0.1,
    targets="{kind: embedding, storage: fp32}",
    train="max_steps: 40, tokens_per_batch: 256, bf16: false, eval_steps: 10, save_steps: 500",
)
_PROGRESS = re.compile(
    r"(augment|tokenize|cache-teacher|train|verify): \d.*"
    r"|continuing after step \d+ of \d+"
    r"|stopped after step \d+: the same command continues there"
)


def made_project(root: Path, *, tokens_per_block: int = 4096) -> Iterator[Path]:
    """Tokenise and let the teacher speak, in `root`."""
    # In its own process the program does that before transformers is imported.
    disable_progress_bar()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("KDPIPE_DEVICE", "cpu")
        patch.setattr(fill_blocks, "SMALLEST", tokens_per_block)
        patch.setattr(fill_blocks, "SPREAD", tokens_per_block)
        pieces.begin(root, 400, PIPELINE)
        for stage in ("tokenize", "cache-teacher"):
            command([stage, str(FILE)])
        yield root


def copy_of(made: Path, path: Path, patch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of a project, which is the current folder, and a process that is left as it was."""
    shutil.copytree(made, path)
    patch.chdir(path)
    patch.setenv("KDPIPE_DEVICE", "cpu")
    environment, hook = dict(os.environ), sys.excepthook
    handler = signal.getsignal(signal.SIGTERM)
    yield path
    os.environ.clear()
    os.environ.update(environment)
    sys.excepthook = hook
    signal.signal(signal.SIGTERM, handler)


def edit(old: str, new: str) -> None:
    """Change the pipeline file."""
    text = FILE.read_text()
    assert old in text
    FILE.write_text(text.replace(old, new))


def command(words: list[str]) -> None:
    """A command line that has to work."""
    assert cli.main(words) == 0


def fails(capsys: Capture, words: list[str], code: int) -> str:
    """The one line with which a command line ends in this process, without `kdpipe: error: `."""
    found = cli.main(words)
    out, err = capsys.readouterr()
    assert (found, out) == (code, ""), err
    line = only_line(err)
    assert line.startswith("kdpipe: error: ")
    return line.removeprefix("kdpipe: error: ")


def only_line(err: str) -> str:
    """The one line on stderr that is no progress."""
    lines = [line for line in err.splitlines() if not _PROGRESS.fullmatch(line)]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def run_words(words: list[str]) -> None:
    """The program in a process of its own, with stderr in the file `log`."""
    os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT), 2)
    # The test must see how far it is before it is done.
    os.nice(5)
    raise SystemExit(cli.main(words))


def begin(words: list[str], target: Callable[[list[str]], None] = run_words) -> ForkServerProcess:
    """Start the program in a process that has torch imported already."""
    FORKS.set_forkserver_preload(PRELOAD)
    process = FORKS.Process(target=target, args=(words,))
    process.start()
    return process


def wait_for(process: ForkServerProcess, pattern: str) -> None:
    """Until there is a file of that name; fails when the process ends before."""
    end = time.monotonic() + 60
    while not any(Path().glob(pattern)):
        assert process.is_alive(), Path("log").read_text()
        assert time.monotonic() < end, f"no {pattern} after a minute"
        time.sleep(0.001)
