#!/usr/bin/env python3
"""Set everything up and run the demo or the tests; needs Python 3.11 or newer and pip, no more.

    python3 run.py demo               distil a small sentence encoder, about 5 minutes
    python3 run.py test [arguments]   every check: lint, format, types, tests (arguments: pytest's)
    python3 run.py test --long        the same with thousands of faults, up to an hour
    python3 run.py bench [NAME ...]   measure: all of benchmarks/, or some; one may have options
    python3 run.py fuzz [TARGET ...] [--seconds N]   look for inputs that a reader of files fails on
    python3 run.py check              lint, format and types only
    python3 run.py setup              only the environment, in .venv beside this file

The first run installs what is missing, later ones find it in place.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

OLDEST = (3, 11)
NEWER = ("python3.13", "python3.12", "python3.11")

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
STAMP = VENV / "kdpipe-stamp"
# To replace .venv, the Python must not be the one in it.
HOST = sys.executable if Path(sys.prefix) != VENV else getattr(sys, "_base_executable", "python3")

COMMANDS = ("demo", "test", "bench", "fuzz", "check", "setup")
EXTRAS = ("demo", "dev", "fuzz")
"""Each has what those before it have."""
PEERS = ROOT / ".venv-peers"
CHECKS = (
    ("ruff check", [PYTHON, "-m", "ruff", "check"]),
    ("ruff format --check", [PYTHON, "-m", "ruff", "format", "--check"]),
    ("mypy", [PYTHON, "-m", "mypy"]),
)
FOREIGN = (
    *("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__"),
    *("PIP_PREFIX", "PIP_PYTHON", "PIP_TARGET", "PIP_REQUIRE_VIRTUALENV"),
)
NO_PYTHON = "install one (Debian, Ubuntu: apt install python3; macOS: brew install python)"
NO_VENV = "install Python's venv module (Debian, Ubuntu: apt install python3-venv) and rerun"

_numbers = itertools.count(1)


def main(arguments: list[str]) -> int:
    """Do what the command line asks for; the exit code."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in {"", "-h", "--help"}:
        say(__doc__.strip())
        return 0 if command else 2
    if command not in COMMANDS or (rest and command not in {"test", "bench", "fuzz"}):
        warn(f"cannot do {' '.join(arguments)!r}: see python3 run.py --help")
        return 2
    measured, options = what_to_measure(rest) if command == "bench" else ([], [])
    if os.name != "posix":
        stop("kdpipe runs on Linux and macOS; on Windows use WSL")
    if sys.version_info < OLDEST:
        continue_in_newer_python()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.chdir(ROOT)
    set_up(command if command in EXTRAS else "dev")
    if command == "demo":
        say("== the demo: kdpipe repro pipelines/demo.yaml")
        kdpipe = str(VENV / "bin" / "kdpipe")
        os.execve(kdpipe, [kdpipe, "repro", "pipelines/demo.yaml"], environment())
    if command == "setup":
        say("ready: source .venv/bin/activate")
        return 0
    if command == "bench":
        set_up_peers()
        return measure(measured, options)
    steps = {
        "check": CHECKS,
        "test": (*CHECKS, ("pytest", [PYTHON, "-m", "pytest", *rest])),
        "fuzz": (("fuzzing", [PYTHON, "-m", "tests.guided", *rest]),),
    }
    for name, words in steps[command]:
        code = step(name, words, HF_HUB_OFFLINE="1")
        if code:
            warn(f"{name} failed with exit code {code}")
            return code
    return 0


def what_to_measure(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Names of benchmarks, all where none is named, and the options of a single one."""
    known = sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py"))
    known = [name for name in known if name not in {"kit", "scene", "show"}]
    names = [*itertools.takewhile(known.__contains__, arguments)]
    options = arguments[len(names) :]
    if options and len(names) != 1:
        stop(f"cannot measure {' '.join(options)!r}: choose among {', '.join(known)}")
    return names or known, options


def measure(names: list[str], options: list[str]) -> int:
    """One benchmark after the other; the exit code of the first that fails."""
    for name in names:
        code = step(f"benchmark {name}", [PYTHON, "-m", f"benchmarks.{name}", *options])
        if code:
            return code
    return 0


def set_up_peers() -> None:
    """Make .venv-peers hold what kdpipe is measured beside."""
    names, done = ROOT / "benchmarks" / "peers.txt", PEERS / "peers.txt"
    if done.is_file() and done.read_bytes() == names.read_bytes():
        return
    shutil.rmtree(PEERS, ignore_errors=True)
    python = str(PEERS / "bin" / "python")
    get = [python, "-m", "pip", "install", "-q", "-c", "constraints.txt"]
    steps = (
        ("making .venv-peers", [PYTHON, "-m", "venv", str(PEERS)]),
        ("installing torch for the peers", [*get, "torch"]),
        ("installing the peers", [*get, "-r", str(names)]),
    )
    if any(step(name, command) for name, command in steps):
        stop("the peers could not be installed: the reason is above; mend it and rerun")
    shutil.copy(names, done)


def set_up(extra: str) -> None:
    """Make .venv hold kdpipe with an extra; the stamp, written last, lets later runs skip this."""
    before = STAMP.read_text("utf-8") if STAMP.is_file() else ""
    if before and before in {stamp(name) for name in EXTRAS[EXTRAS.index(extra) :]}:
        return
    moved = before and not before.startswith(f"{ROOT}\n")
    if moved or not usable():
        make_venv()
    STAMP.unlink(missing_ok=True)
    install(extra)
    tell_dvc_about_git()
    STAMP.write_text(stamp(extra), "utf-8")


def stamp(extra: str) -> str:
    """What an environment depends on: place, Python, extra, and what it was asked to hold."""
    state = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        state.update((ROOT / name).read_bytes())
    return f"{ROOT}\n{version_of(PYTHON)}\n{extra}\n{state.hexdigest()}\n"


def make_venv() -> None:
    """Create .venv, with a pip in it, in the first way that this machine offers."""
    number_step("making .venv")
    venv = str(VENV)
    with tempfile.TemporaryDirectory() as folder:
        ways = (
            [[HOST, "-m", "venv", venv]],
            [  # without ensurepip, as Debian has it
                [HOST, "-m", "venv", "--without-pip", venv],
                [HOST, "-m", "pip", "--python", PYTHON, "install", "pip"],
            ],
            [[HOST, "-m", "virtualenv", venv]],
            [["uv", "venv", "--seed", "--python", HOST, venv]],
            [  # without any venv module, or with a pip before 22.3
                [HOST, "-m", "pip", "install", "--target", folder, "virtualenv"],
                ["env", f"PYTHONPATH={folder}", HOST, "-m", "virtualenv", venv],
            ],
        )
        for way in ways:
            shutil.rmtree(VENV, ignore_errors=True)
            if all(ask(command) is not None for command in way) and usable():
                return
    stop(f"{HOST} cannot make a virtual environment: {NO_VENV}")


def usable() -> bool:
    """Whether .venv has a Python that is new enough, and pip."""
    return bool(version_of(PYTHON)) and ask([PYTHON, "-m", "pip", "--version"]) is not None


def install(extra: str) -> None:
    """Install torch by itself, then kdpipe and all else: pinned, or else as new as is allowed."""
    quiet = ["-q"] if os.environ.get("CI") else []
    for pins in (["-c", "constraints.txt"], []):
        get = [PYTHON, "-m", "pip", "install", *quiet, *pins]
        steps = (
            ("installing torch", [*get, "torch"]),
            ("trying torch", [PYTHON, "-W", "ignore", "-c", "import torch"]),
            ("installing kdpipe and the rest", [*get, "-e", f".[{extra}]"]),
        )
        if not any(step(name, command) for name, command in steps):
            return
        if pins:
            warn("the pinned versions cannot be installed here: once more without constraints.txt")
    stop("the packages could not be installed: the reason is above; mend it and rerun")


def tell_dvc_about_git() -> None:
    """DVC refuses to work where there is no git repository (an archive), or another user's."""
    git = ROOT / ".git"
    if not git.exists() or git.stat().st_uid != os.getuid():
        step("DVC without git", [PYTHON, "-m", "dvc", "config", "--local", "core.no_scm", "true"])


def continue_in_newer_python() -> NoReturn:
    """Start again in a newer Python of PATH, or say that there is none."""
    for name, folder in itertools.product(NEWER, os.get_exec_path()):
        path = shutil.which(name, path=folder)
        if path and version_of(path):
            os.execv(path, [path, *sys.argv])
    found = ".".join(str(part) for part in sys.version_info[:3])
    stop(f"needs Python 3.11 or newer, this is {found} and PATH has no other: {NO_PYTHON}")


def version_of(python: str) -> str:
    """The version of a Python that runs and is new enough, else nothing."""
    code = f"import sys; print(sys.version.split()[0]); sys.exit(sys.version_info < {OLDEST})"
    return (ask([python, "-c", code]) or "").strip()


def ask(command: list[str]) -> str | None:
    """What a command prints; None where it cannot be run or fails."""
    try:
        return subprocess.check_output(
            command, stderr=subprocess.DEVNULL, text=True, env=environment()
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def step(name: str, command: list[str], **more: str) -> int:
    """Run a command, announced and timed; its exit code, 128 + the number of a deadly signal."""
    number_step(name)
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment(**more))
    try:
        code = process.wait()
    except BaseException:  # Ctrl-C or SIGTERM: leave no child behind
        process.terminate()
        process.wait()
        raise
    say(f"   {'failed' if code else 'done'} after {time.monotonic() - started:.0f} s: {name}")
    return code if code >= 0 else 128 - code


def environment(**more: str) -> dict[str, str]:
    """For children: nothing of another environment, no questions, no usage reports."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    pip = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0"}
    rest = {"PYTHONUTF8": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DVC_NO_ANALYTICS": "1"}
    return {**kept, **pip, **rest, **more}


def number_step(text: str) -> None:
    """Announce the next step."""
    say(f"== {next(_numbers)}. {text}")


def say(text: str) -> None:
    """Print at once, so that the lines of children come in between in order."""
    print(text, flush=True)


def warn(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"run.py: {text}\n")


def stop(text: str) -> NoReturn:
    """End with one line of explanation."""
    warn(text)
    sys.exit(1)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
