"""A tiny project, and its stages run in processes that may die, on a disk that may fail.

A trial is a fork of a process that has everything imported. It runs one command in a copy of a
project, of which the files are hard links: `kdpipe` edits none of them in place.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import multiprocessing
import os
import pickle
import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests import pieces
from tests.disk import Disk, Fault
from tests.pieces import FILE, sentences, write_text

FORKS = multiprocessing.get_context("forkserver")
PRELOAD = [
    *("kdpipe.augment.write", "kdpipe.cli", "kdpipe.evaluate", "kdpipe.job", "kdpipe.project"),
    *("kdpipe.stages.augment_text", "kdpipe.stages.cache_teacher"),
    *("kdpipe.stages.evaluate_student", "kdpipe.stages.tokenize_corpus"),
    *("kdpipe.stages.train_student", "kdpipe.subjects", "kdpipe.teacher", "kdpipe.tokenizer"),
    *("kdpipe.word_tokenizer", "kdpipe.write_student", "matplotlib.backends.backend_svg"),
    *("matplotlib.figure", "rich.live", "rich.table", "ruamel.yaml", "tests.trials"),
    "tests.warm",
]
"""What the stages import as they run."""
PIPELINE = (
    pieces.PIPELINE.format(
        validation=0.2,
        targets="{kind: embedding, storage: fp32}, {kind: hidden, layers: [1]}",
        train="max_steps: 6, tokens_per_batch: 128, bf16: false, eval_steps: 2, save_steps: 2",
    )
    + """\
    evaluate: [{kind: fidelity}]
augmentations:
  more:
    sources: [{kind: files, files: [text.txt]}]
    methods: [{kind: perturb, steps: [{kind: masking, probability: 0.3}]}]
"""
)
ROWS = 40
STAGES = ("augment", "tokenize", "cache-teacher", "train", "evaluate")
CHANGES = ("tokenize other text", "cache-teacher --verify", "train otherwise")
KNOWN = "cache-teacher other text"
"""Of most rows it is known what the teacher says."""
BLOCKS = 8
"""Of the cache."""
NAMES = (*STAGES, *CHANGES, KNOWN)
CLOCKS = {"speed.json", "table.tsv", "report.svg"}
"""Files that tell of speed."""
DVC_LOCK = "dvc.lock"
CLOCKED = re.compile(
    rb"- path: (?P<path>\S+/(?:%s))\n +hash: md5\n +md5: (?P<md5>\w+)\n +size: (?P<size>\d+)\n"
    % "|".join(map(re.escape, CLOCKS)).encode()
)
"""Where DVC tells of them."""


@dataclass(frozen=True)
class Record:
    """How a run went, as it tells itself; there is none where it was killed."""

    calls: list[str]
    log: list[tuple[Any, ...]]
    places: list[int]
    """Where the log was as each call began."""


@dataclass
class Ended:
    """The end of a trial."""

    code: int
    shown: str
    record: Record | None


def begin(
    words: list[str],
    folder: Path,
    fault: Fault | None = None,
    *,
    locks: bool = True,
    umask: int = 0o022,
    first: Callable[[], None] | None = None,
) -> ForkServerProcess:
    """Start a command in a project, in a process of its own, in which `first` is done first."""
    FORKS.set_forkserver_preload(PRELOAD)
    process = FORKS.Process(target=_run, args=(words, folder, fault, locks, umask, first))
    process.start()
    return process


def wait_until_it_runs(process: ForkServerProcess, folder: Path) -> None:
    """Until the program begins."""
    while not _beside(folder, process.pid or 0, "err").exists() and process.is_alive():
        time.sleep(0.001)


def end(process: ForkServerProcess, folder: Path) -> Ended:
    """Wait for it."""
    process.join(60)
    assert process.exitcode is not None, "it takes a minute"
    pid = process.pid or 0
    told, shown = _beside(folder, pid, "record"), _beside(folder, pid, "err")
    record = pickle.loads(told.read_bytes()) if told.exists() else None
    return Ended(process.exitcode, shown.read_text("utf-8"), record)


def run(words: list[str], folder: Path, fault: Fault | None = None, *, umask: int = 0o022) -> Ended:
    """Run a command to its end."""
    return end(begin(words, folder, fault, umask=umask), folder)


def _beside(folder: Path, process: int, what: str) -> Path:
    return folder.parent / f"{process}.{what}"


def _run(
    words: list[str],
    folder: Path,
    fault: Fault | None,
    locks: bool,
    umask: int,
    first: Callable[[], None] | None,
) -> None:
    """In the trial's own process."""
    os.umask(umask)
    if first is not None:
        first()
    if not locks:
        fcntl.flock = lambda descriptor, operation: None
    disk = Disk(fault)
    disk.stand_in()
    os.dup2(os.open(_beside(folder, os.getpid(), "err"), os.O_WRONLY | os.O_CREAT), 2)
    os.dup2(2, 1)
    try:
        code = go(words, folder)
        told = _beside(folder, os.getpid(), "record")
        half = told.with_suffix(".half")
        half.write_bytes(pickle.dumps(Record(disk.calls, disk.log, disk.places)))
        half.replace(told)
    except KeyboardInterrupt:
        code = 130  # the program had not begun, or was at its end
    os._exit(code)


def go(words: list[str], folder: Path) -> int:
    """The program in this process, with what makes a tiny project of many parts; its exit code."""
    from kdpipe import cli, fill_blocks, speed
    from kdpipe.augment import write

    os.chdir(folder)
    os.environ["KDPIPE_DEVICE"] = "cpu"
    fill_blocks.SMALLEST, fill_blocks.SPREAD, write.PART = 20, 100, 8
    speed.ROUNDS = speed.FEWEST_ROUNDS = 1
    speed.MOST_ROWS = speed.FEWEST_ROWS = speed.MOST_PROBED = 4
    speed.MOST_SINGLES = speed.FEWEST_SINGLES = 2
    return cli.main(words)


@dataclass(frozen=True)
class Scenario:
    """A command, and the project that it meets and leaves where nothing goes wrong."""

    name: str
    words: list[str]
    before: Path
    after: Path
    record: Record
    seconds: float
    """That it took, once it had begun."""

    def again(self, folder: Path) -> Path:
        """A copy of the project as it was before."""
        return copy(self.before, folder)


def copy(project: Path, folder: Path) -> Path:
    """A copy whose files are links; locks are not copied, which are edited in place."""
    ignored = shutil.ignore_patterns("locks", "lock", "tmp")
    return shutil.copytree(project, folder, copy_function=_link, ignore=ignored)


def _link(source: str, path: str) -> None:
    if os.path.basename(source) == DVC_LOCK:
        shutil.copyfile(source, path)  # DVC edits it in place
    else:
        os.link(source, path)


def scenarios(root: Path) -> dict[str, Scenario]:
    """Each stage for the first time, then again after something has changed."""
    first = root / "0"
    first.mkdir(parents=True)
    pieces.begin(first, ROWS, PIPELINE)
    made, before = dict[str, Scenario](), first
    for stage in STAGES:
        made[stage] = _scenario(stage, [stage, FILE], before, root)
        before = made[stage].after
    for name, words, change in zip(
        CHANGES,
        (["tokenize", FILE], ["cache-teacher", FILE, "--verify"], ["train", FILE]),
        (_other_text, _damaged_shard, _other_training),
        strict=True,
    ):
        changed = copy(before, root / f"{name} before")
        change(changed)
        made[name] = _scenario(name, words, changed, root)
    other_text = made["tokenize other text"].after
    made[KNOWN] = _scenario(KNOWN, ["cache-teacher", FILE], other_text, root)
    return made


def _scenario(name: str, words: list[str], before: Path, root: Path) -> Scenario:
    after = copy(before, root / name)
    process = begin(words, after)
    wait_until_it_runs(process, after)
    start = time.monotonic()
    ended = end(process, after)
    seconds = time.monotonic() - start
    assert ended.code == 0, ended.shown
    assert ended.record is not None
    return Scenario(name, words, before, after, ended.record, seconds)


def _other_text(project: Path) -> None:
    (project / "text.txt").unlink()
    write_text(project / "text.txt", sentences(ROWS, 10))


def _damaged_shard(project: Path) -> None:
    shard = sorted(project.glob(".kdpipe/store/*/*.safetensors"))[0]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    for path in (shard, *project.glob(f"artifacts/caches/said/*{shard.stem[:32]}.safetensors")):
        path.unlink()
        path.write_bytes(data)


def _other_training(project: Path) -> None:
    (project / FILE).unlink()
    (project / FILE).write_text(PIPELINE.replace("max_steps: 6", "max_steps: 7"))


def tree(project: Path) -> dict[str, str]:
    """Digests of all that a project has, without locks and what depends on a clock."""
    found = {}
    for path in sorted(project.rglob("*")):
        name = path.relative_to(project).as_posix()
        if name.startswith((".kdpipe/locks", ".kdpipe/store/lock", ".dvc/tmp")):
            continue
        if path.is_dir():
            found[name] = "a folder"
        elif path.name in CLOCKS or name.startswith(".kdpipe/reports/"):
            found[name] = "a file"
        else:
            data = path.read_bytes()
            if path.name == "README.md":
                data = re.sub(rb"\| [^|]+ \| [^|]+ \|\n", b"\n", data)
            if path.name == DVC_LOCK:
                data = CLOCKED.sub(functools.partial(_as_it_is, project), data)
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def _as_it_is(project: Path, told: re.Match[bytes]) -> bytes:
    """What DVC tells of a file that depends on a clock: no more than whether it is so."""
    data = (project / told["path"].decode()).read_bytes()
    is_so = told["md5"].decode() == hashlib.md5(data).hexdigest() and int(told["size"]) == len(data)
    return told["path"] if is_so else told[0]


def differences(found: Path, expected: Path) -> list[str]:
    """Names of files that two projects do not have alike."""
    here, there = tree(found), tree(expected)
    return sorted(name for name in here | there if here.get(name) != there.get(name))


def answered(project: Path) -> tuple[int, int]:
    """Blocks that have all their receipts, and those for which something was written."""
    store, questions = project / ".kdpipe/store", 2
    receipts = len([*store.glob("??/*.json")])
    shards = len([*store.glob("??/*.safetensors")])
    writing = any(store.glob("??/.tmp-*"))
    return receipts // questions, -(-max(shards, receipts + writing) // questions)


def points(count: int, wanted: int | None, seed: int) -> list[int]:
    """Places among `count`: all, or a sample with the first and the last one."""
    if wanted is None or wanted >= count:
        return [*range(count)]
    drawn = random.Random(seed).sample(range(1, count - 1), wanted - 2)
    return sorted({0, count - 1, *drawn})
