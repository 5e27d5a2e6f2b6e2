"""Many inputs in a forked child that may not do much: a canary sings where code would run.

The child has limits of memory and time; an audit hook notes what no input may cause: programs
started, code compiled from files, pickles, sockets, and files opened outside of its folder. Where
the program ends itself because native code passes a limit of its own, another child goes on.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TextIO

import torch

from kdpipe import cli, supervised
from kdpipe.errors import ArtifactError

SECONDS, MEGABYTES = 5.0, 512
_NEVER = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen"}
_NEVER |= {"pickle.find_class", "socket.connect", "socket.bind", "ctypes.dlopen", "exec", "compile"}
_CHANGES = {
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_OUTPUTS = {"/dev/null", "/dev/tty"}


Attempt = Callable[[int], contextlib.AbstractContextManager[Callable[[], object]]]
"""Lays an input out, gives what reads it, and takes it away again."""


@dataclass
class Outcome:
    """What one input did."""

    seed: int
    code: int = -1
    line: str = ""
    seconds: float = 0.0
    megabytes: int = 0
    canary: list[str] = field(default_factory=list)


def run_all(seeds: list[int], attempt: Attempt, inside: Path) -> list[Outcome]:
    """The outcome of each input; one that kills the child has the code of the signal, negative."""
    found: list[Outcome] = []
    while len(found) < len(seeds):
        found += _child(seeds[len(found) :], attempt, inside)
    return found


def _child(seeds: list[int], attempt: Attempt, inside: Path) -> list[Outcome]:
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(read)
        with contextlib.suppress(BaseException):
            _limit()
            canary = _canary(inside)
            with os.fdopen(write, "w", buffering=1) as report:
                for seed in seeds:
                    _one(seed, attempt, canary, report)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as report:
        found = [Outcome(**json.loads(line)) for line in report if line.endswith("\n")]
    _, status = os.waitpid(process, 0)
    ended = os.waitstatus_to_exitcode(status)
    if len(found) < len(seeds) and (ended or not found):
        found.append(Outcome(seeds[len(found)], min(ended, -1), f"the child ended with {ended}"))
    return found


def _limit() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = used + (1536 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Threads of the parent are not here: whoever waited for them would wait for ever.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    supervised.SECONDS, supervised.BYTES = SECONDS / 2, (MEGABYTES << 20) // 2
    torch.set_num_threads(1)
    faulthandler.disable()
    # What the parent catches would be its answer here.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    quiet = os.open("/dev/null", os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)


def _one(seed: int, attempt: Attempt, canary: list[str], report: TextIO) -> None:
    outcome = Outcome(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Of the processor, and not of the wall: other tests run beside this one.
    signal.setitimer(signal.ITIMER_PROF, 4 * SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 24 * SECONDS)
    begin = time.process_time()
    whole = contextlib.ExitStack()

    def note(error: BaseException) -> None:
        outcome.code, outcome.line = cli._last_words(error)
        outcome.canary = list(canary)

    def tell() -> None:
        outcome.seconds = time.process_time() - begin
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        outcome.megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
        report.write(json.dumps(asdict(outcome)) + "\n")

    def leave(error: ArtifactError) -> NoReturn:
        note(error)
        whole.close()
        os._exit(0)

    with whole:
        whole.callback(tell)
        act = whole.enter_context(attempt(seed))
        canary.clear()
        try:
            with supervised.watching(leave):
                act()
            outcome.code, outcome.canary = 0, list(canary)
        except BaseException as error:  # noqa: BLE001 - this is the question
            note(error)


def _canary(inside: Path) -> list[str]:
    """A list that an audit hook, which stays for the life of the process, writes into."""
    sung: list[str] = []
    roots = [str(inside), *map(str, _libraries()), "/proc/", "/dev/null", "/usr/share/zoneinfo"]

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if event in {"exec", "compile"}:
            if any(_is_elsewhere(name, roots[1:]) for name in _file_names(event, arguments)):
                sung.append(f"{event} {arguments!r:.200}")
        elif event in _NEVER:
            sung.append(f"{event} {arguments!r:.200}")
        elif event == "open":
            name, _, flags = arguments
            writes = isinstance(flags, int) and flags & _WRITING
            if isinstance(name, str | bytes | os.PathLike) and _is_elsewhere(
                name, roots[:1] if writes else roots
            ):
                sung.append(f"open {os.fspath(name)!r:.200} {flags}")
        elif event in _CHANGES and _is_elsewhere(arguments[0], roots[:1]):
            sung.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(listen)
    return sung


def _libraries() -> Iterator[Path]:
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield Path(sysconfig.get_path(name)).resolve()
    yield Path(cli.__file__).resolve().parent.parent


def _file_names(event: str, arguments: tuple[Any, ...]) -> list[Any]:
    if event == "compile":
        return [arguments[1]] if arguments[1] is not None else []
    return [getattr(arguments[0], "co_filename", None)]


def _is_elsewhere(name: Any, roots: list[str]) -> bool:
    text = os.fsdecode(name) if isinstance(name, bytes | os.PathLike) else name
    if not isinstance(text, str) or text.startswith("<") or text in _OUTPUTS:
        return False
    return not any(os.path.realpath(text).startswith(root) for root in roots)
