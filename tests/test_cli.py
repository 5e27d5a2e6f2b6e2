"""The program as a user meets it: help, exit codes, one line for every error."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from kdpipe import cli, progress
from kdpipe.errors import UsageError
from kdpipe.options import expect_version

PROGRAM = [sys.executable, "-m", "kdpipe"]
HEAVY = {"torch", "transformers", "tokenizers", "pyarrow", "numpy", "matplotlib", "datasets"}
STAGES = cli.stages()

STUB = '''
import os
import signal
import sys
import time
from typing import Annotated

import typer

from kdpipe import errors, progress


def fail(kind: str, where: Annotated[str, typer.Option("--where-to")] = "here") -> None:
    """Fail in some way."""
    if kind == "none":
        typer.echo(f"result {where}")
        progress.say("status")
        return
    if kind == "code":
        raise typer.Exit(9)
    if kind == "wait":
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("cleaned up", flush=True)
    if kind == "hang":
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("cleaning up", flush=True)
            time.sleep(60)
    if kind == "ctrl-c":
        raise KeyboardInterrupt
    if kind == "cleaning":
        try:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            finally:
                raise RuntimeError("nothing is as it was")
        except RuntimeError as error:
            raise errors.ArtifactError(str(error)) from None
    if kind == "panic":
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import Split

        Split(Regex("(a+)+$"), "removed").pre_tokenize_str("a" * 40 + "b")
    if kind in vars(errors):
        raise getattr(errors, kind)("what is wrong:\\n what to do")
    raise {
        "full": OSError(122, "Disk quota exceeded", "artifacts/x"),
        "memory": MemoryError(),
        "secret": errors.UsageError(
            "token hf_abcdefghijklmnop of https://me:pass@hub.example/x, header Bearer abc.def"
        ),
        "bug": ZeroDivisionError("two\\nlines"),
    }[kind]
'''


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[[str], Done]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with another package, which adds the stage `go-wrong`."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "stub_stage.py").write_text(STUB, "utf-8")
    info = folder / "stub_stage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: stub-stage\nVersion: 1.0\n", "utf-8"
    )
    (info / "entry_points.txt").write_text("[kdpipe.stages]\ngo-wrong = stub_stage:fail\n", "utf-8")
    return folder


@pytest.fixture
def run(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Command lines in this process, which is left as it was."""
    environment, hook = dict(os.environ), sys.excepthook
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.syspath_prepend(site)
    os.environ.update(_environment())

    def run(words: str) -> Done:
        code = cli.main(shlex.split(words))
        return Done(code, *capsys.readouterr())

    yield run
    os.environ.clear()
    os.environ.update(environment)
    sys.excepthook = hook
    signal.signal(signal.SIGTERM, handler)
    progress.set_quiet(False)


def _environment(**more: str) -> dict[str, str]:
    mine = {name: text for name, text in os.environ.items() if not name.startswith("KDPIPE_")}
    return {**mine, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", **more}


def _start(site: Path, kind: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*PROGRAM, "go-wrong", kind],
        env=_environment(PYTHONPATH=str(site)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert _line_of(process) == "ready"
    return process


def _line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_stages_are_listed_in_the_order_of_the_pipeline(run: Run) -> None:
    shown = run("--help").out
    names = re.findall(r"^  ([a-z-]+)  +\S", shown.partition("Commands:")[2], re.MULTILINE)
    first = ["augment", "tokenize", "cache-teacher", "train", "evaluate"]
    assert names == [*first, *sorted({*STAGES, "go-wrong"} - {*first})]
    assert {"augment", "init", "parameters", "predict", "repro"} < {*names}


@pytest.mark.parametrize("stage", ["", *STAGES])
def test_help_is_quick_and_has_an_example(stage: str) -> None:
    code = textwrap.dedent(
        f"""
        import sys, time
        from kdpipe.cli import main
        code = main({[*([stage] if stage else []), "--help"]!r})
        quick = time.process_time() < 1.0
        print(sorted({HEAVY!r} & set(sys.modules)), quick, code, file=sys.stderr)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == "[] True 0\n"
    assert re.search(rf"^  Example: kdpipe {stage or 'repro'} ?\S", done.stdout, re.MULTILINE)


def test_no_words_show_help_and_are_a_mistake(run: Run) -> None:
    done = run("")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Usage: kdpipe [OPTIONS] COMMAND")


def test_version(run: Run) -> None:
    assert run("--version") == Done(0, f"kdpipe {metadata.version('kdpipe')}\n", "")


@pytest.mark.parametrize(
    ("kind", "code", "line"),
    [
        ("UsageError", 2, "error: what is wrong: what to do"),
        ("ArtifactError", 3, "error: what is wrong: what to do"),
        ("LockedError", 4, "error: what is wrong: what to do"),
        ("StorageError", 5, "error: what is wrong: what to do"),
        (
            "full",
            5,
            "error: no space left while writing artifacts/x: free some and rerun; what was finished"
            " is kept, the same command continues",
        ),
        (
            "memory",
            6,
            "error: out of memory: lower tokens_per_batch; what was finished is kept, the same"
            " command continues",
        ),
        ("NonFiniteError", 7, "error: what is wrong: what to do"),
        (
            "bug",
            1,
            "this is a bug: ZeroDivisionError: two lines; run again with --debug and report what it"
            " prints",
        ),
        ("secret", 2, "error: token *** of https://***@hub.example/x, header Bearer ***"),
    ],
)
def test_every_error_is_one_line_and_an_exit_code(
    run: Run, kind: str, code: int, line: str
) -> None:
    assert run(f"go-wrong {kind}") == Done(code, "", f"kdpipe: {line}\n")


def test_ctrl_c_in_a_stage_is_one_line(run: Run) -> None:
    line = "interrupted: what was finished is kept, the same command continues\n"
    assert run("go-wrong ctrl-c") == Done(130, "", line)


def test_a_library_that_fails_as_it_cleans_up_does_not_hide_the_signal(run: Run) -> None:
    line = "interrupted: what was finished is kept, the same command continues\n"
    assert run("go-wrong cleaning") == Done(143, "", line)


def test_a_panic_of_native_code_is_no_bug(run: Run) -> None:
    done = run("go-wrong panic")
    assert (done.code, done.out) == (3, "")
    assert re.fullmatch(
        r"kdpipe: error: a native library gave up \(.+\): look at the tokenizer and at the text it"
        r" was reading\n",
        done.err,
    )


@pytest.mark.parametrize("words", ["--debug go-wrong secret", "go-wrong secret --debug"])
def test_debug_shows_the_traceback_before_the_line(run: Run, words: str) -> None:
    done = run(words)
    assert done.code == 2
    assert done.err.startswith("Traceback (most recent call last):\n")
    assert "stub_stage.py" in done.err
    assert done.err.splitlines()[-1].startswith("kdpipe: error: token *** of")
    assert "hf_abc" not in done.err


def test_debug_by_the_environment(run: Run) -> None:
    os.environ["KDPIPE_DEBUG"] = "0"
    assert "Traceback" not in run("go-wrong full").err
    os.environ["KDPIPE_DEBUG"] = "1"
    assert "Traceback" in run("go-wrong full").err


def test_exit_code_of_a_stage_is_passed_on(run: Run) -> None:
    assert run("go-wrong code") == Done(9, "", "")


@pytest.mark.parametrize("words", ["-q go-wrong none", "go-wrong none --quiet"])
def test_results_go_to_stdout_and_status_to_stderr_unless_quiet(run: Run, words: str) -> None:
    assert run("go-wrong none") == Done(0, "result here\n", "status\n")
    assert run(words) == Done(0, "result here\n", "")
    # Stages that DVC starts are told by the environment.
    assert os.environ["KDPIPE_QUIET"] == "1"


def test_words_after_two_hyphens_are_left_alone(run: Run) -> None:
    assert run("go-wrong none --where-to -- --quiet").code == 2
    assert run("go-wrong -- none") == Done(0, "result here\n", "status\n")


def test_underscores_and_hyphens_are_the_same(run: Run) -> None:
    assert run("go_wrong none --where_to A_b") == Done(0, "result A_b\n", "status\n")
    assert run("go-wrong none --where-to A_b") == Done(0, "result A_b\n", "status\n")
    assert run("cache_teacher --help") == run("cache-teacher --help")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("trian x", "No such command 'trian'. Did you mean 'train'? (see 'kdpipe --help')"),
        (
            "train p.yaml --devise cpu",
            "No such option: --devise (Possible options: --device) (see 'kdpipe train --help')",
        ),
        ("train", "Missing argument 'PIPELINE'. (see 'kdpipe train --help')"),
        ("--frob", "No such option: --frob (see 'kdpipe --help')"),
        ("train nowhere.yaml", "nowhere.yaml: no such file; 'kdpipe init' writes one"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(run: Run, words: str, line: str) -> None:
    assert run(words) == Done(2, "", f"kdpipe: error: {line}\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_stage_after_its_cleaning_up(
    site: Path, number: signal.Signals, code: int
) -> None:
    process = _start(site, "wait")
    process.send_signal(number)
    shown, said = process.communicate(timeout=30)
    assert (process.returncode, shown) == (code, "cleaned up\n")
    assert said == "interrupted: what was finished is kept, the same command continues\n"


def test_a_second_sigterm_does_not_wait_for_the_cleaning_up(site: Path) -> None:
    process = _start(site, "hang")
    process.send_signal(signal.SIGTERM)
    assert _line_of(process) == "cleaning up"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM


def test_a_stage_refuses_what_another_version_of_it_wrote() -> None:
    expect_version(None, 2)
    expect_version(2, 2)
    with pytest.raises(UsageError) as caught:
        expect_version(1, 2)
    assert str(caught.value) == (
        "this dvc.yaml was written for version 1 of this stage, this kdpipe makes version 2: run"
        " 'kdpipe repro', which rewrites it"
    )


@pytest.mark.parametrize("stage", ["tokenize", "cache-teacher", "train", "evaluate"])
def test_stages_know_their_version(run: Run, stage: str) -> None:
    done = run(f"{stage} --stage-version 99 nowhere.yaml")
    assert done.code == 2
    assert done.err.startswith("kdpipe: error: this dvc.yaml was written for version 99 of this")
