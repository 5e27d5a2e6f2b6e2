"""The program: stages found by entry point, and every end of a run as one line and an exit code.

0 done, 1 a bug, 2 to 7 the classes of kdpipe.errors, 130 Ctrl-C, 143 SIGTERM; `repro`: DVC's own.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import traceback
from importlib.metadata import EntryPoint, entry_points, version
from types import FrameType
from typing import Annotated, NoReturn

import typer

from kdpipe import progress, supervised
from kdpipe.errors import ArtifactError, explain

GROUP = "kdpipe.stages"
_ORDER = ("augment", "tokenize", "cache-teacher", "train", "evaluate")
_ANYWHERE = {"--debug", "--quiet", "-q"}
_STOPPED = "interrupted: what was finished is kept, the same command continues"
_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers follows it with its own bars
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_VERBOSITY": "error",
}
_SECRET = re.compile(
    r"\b(?:hf_|gh[oprsu]_|github_pat_|sk-|AKIA)\w{8,}|(?<=Bearer )\S+|(?<=://)[^/\s@]+(?=@)"
)
_SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD)$")
_SOON = 0.02
"""Seconds."""
_LEAST = 8
"""Letters of a secret: a shorter value of such a name may be a part of any word."""


_came: list[int] = []
"""Signals of this run: libraries that clean up after one may raise another error in its place."""


class _Terminated(SystemExit):
    """SIGTERM as an exception: `finally` blocks run, and forked workers end in silence."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line (that of the process, where none is given); the exit code."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _came.clear()
    signal.signal(signal.SIGTERM, _terminate)
    # In the background a shell has it ignored.
    waits_for_ctrl_c = signal.getsignal(signal.SIGINT) == signal.default_int_handler
    if waits_for_ctrl_c:
        signal.signal(signal.SIGINT, _interrupt)
    hook, sys.unraisablehook = sys.unraisablehook, _send_again
    words = _options_first(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or _is_set("KDPIPE_DEBUG")
    try:
        with supervised.watching(lambda error: _leave(error, debug)):
            code = _program(words)(args=words, prog_name="kdpipe", standalone_mode=False)
        if code == 128 + signal.SIGINT:
            raise KeyboardInterrupt
    except BaseException as error:  # noqa: BLE001 - native panics are no Exception, and all ends here
        return _end(error, debug)
    finally:
        sys.unraisablehook = hook
        if waits_for_ctrl_c:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    return code if isinstance(code, int) else 0


def _send_again(ignored: sys.UnraisableHookArgs) -> None:
    """A signal came where native code ignores what is raised: it has to come again."""
    numbers = {KeyboardInterrupt: signal.SIGINT, _Terminated: signal.SIGTERM}
    number = numbers.get(ignored.exc_type)
    if number is None:
        sys.__unraisablehook__(ignored)
        return
    if number == signal.SIGTERM:
        signal.signal(number, _terminate)
    # Not at once: it would be raised in here, and ignored as well.
    later = threading.Timer(_SOON, os.kill, [os.getpid(), number])
    later.daemon = True
    later.start()


def stages() -> dict[str, EntryPoint]:
    """All installed stages by name, those of the pipeline first, in its order."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    first = [name for name in _ORDER if name in found]
    return {name: found[name] for name in (*first, *sorted(found.keys() - set(first)))}


def _program(words: list[str]) -> typer.Typer:
    """The Typer app; where `words` ask for a stage, only that one is imported."""
    app = typer.Typer(
        context_settings={
            "token_normalize_func": _normalize,
            "help_option_names": ["-h", "--help"],
            "max_content_width": 100,
        },
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_options)
    known = stages()
    asked = next((_normalize(word) for word in words if not word.startswith("-")), "")
    for name in [asked] if asked in known else known:
        app.command(name)(known[name].load())
    return app


def _options(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (or KDPIPE_DEBUG=1).")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Show results and errors alone (or KDPIPE_QUIET=1)."),
    ] = False,
    show_version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Distil a large language encoder into a small one, stage by stage or all at once.

    Example: kdpipe repro pipelines/demo.yaml
    """
    # By the environment, since stages that DVC starts follow too.
    if debug:
        os.environ["KDPIPE_DEBUG"] = "1"
    if quiet:
        os.environ["KDPIPE_QUIET"] = "1"
    progress.set_quiet(_is_set("KDPIPE_QUIET"))
    if show_version:
        typer.echo(f"kdpipe {version('kdpipe')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _options_first(words: list[str]) -> list[str]:
    """The same words with the options of the program before the stage, wherever they stood."""
    end = words.index("--") if "--" in words else len(words)
    mine = [word for word in words[:end] if word in _ANYWHERE]
    return [*mine, *(word for word in words[:end] if word not in _ANYWHERE), *words[end:]]


def _is_set(name: str) -> bool:
    return os.environ.get(name, "") not in {"", "0"}


def _normalize(word: str) -> str:
    return word.replace("_", "-")


def _interrupt(number: int, frame: FrameType | None) -> None:
    _came.append(number)
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    _came.append(number)
    # A second one ends the process even where a `finally` block hangs.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise _Terminated(128 + number)


def _end(error: BaseException, debug: bool) -> int:
    if isinstance(error, typer.Abort) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, SystemExit) and not _came:
        return error.code if isinstance(error.code, int) else 1
    code, line = _last_words(error)
    if debug:
        typer.echo(_redact("".join(traceback.format_exception(error))), err=True, nl=False)
    typer.echo(_redact(" ".join(line.split())), err=True)
    return code


def _leave(error: ArtifactError, debug: bool) -> NoReturn:
    """The end where native code, which nothing interrupts, goes on in another thread."""
    code = error.exit_code
    try:
        progress.leave()
        code = _end(error, debug)
        sys.stdout.flush()
    finally:
        os._exit(code)


def _last_words(error: BaseException) -> tuple[int, str]:
    """Exit code and line of any error."""
    if _came or isinstance(error, KeyboardInterrupt):
        return 128 + (_came[0] if _came else signal.SIGINT), _STOPPED
    if hasattr(error, "format_message"):  # every version of Typer has another name for the class
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "kdpipe"
        return 2, f"kdpipe: error: {error.format_message()} (see '{command} --help')"
    known = explain(error)
    if type(error).__name__ == "PanicException":  # of Rust, by pyo3, which does not export it
        known = ArtifactError(
            f"a native library gave up ({str(error).partition(chr(10))[0]}): look at the tokenizer"
            " and at the text it was reading"
        )
    if known is not None:
        return known.exit_code, f"kdpipe: error: {known}"
    return 1, (
        f"kdpipe: this is a bug: {type(error).__name__}: {error}; run again with --debug and report"
        " what it prints"
    )


def _redact(text: str) -> str:
    """Without what looks like a secret, and without those of the environment."""
    for name, value in os.environ.items():
        if len(value) >= _LEAST and _SECRET_NAME.search(name.upper()):
            text = text.replace(value, "***")
    return _SECRET.sub("***", text)
