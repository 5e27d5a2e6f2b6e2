"""A hostile tokenizer in the real program: one line and exit 3, in bounded time and memory."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import time
from pathlib import Path
from typing import NoReturn

import pytest

from kdpipe import supervised, tokenizer_file
from kdpipe.errors import ArtifactError
from kdpipe.tokenizer import load_tokenizer
from tests import pieces, trials
from tests.conftest import Figure
from tests.hostile_tokenizers import EXPLODING
from tests.pieces import FILE
from tests.tiny import tiny_teacher_folder

ROWS = 40
TOKENIZER = "teacher: its tokenizer "
PATH = "teacher/tokenizer.json: its "
CHARACTERS = r"[\d,]+ characters"
OTHER, SHORTER = ": use another model", ": use another model, or shorter texts"
ENDS = {
    "replaces": rf"{TOKENIZER}takes more than (1 s|210 MB of memory) for {CHARACTERS}{SHORTER}",
    "prepend": f"{PATH}normalizer takes more than 21 MB of memory for {CHARACTERS}{OTHER}",
    "added token": f"{PATH}normalizer takes more than 21 MB of memory for {CHARACTERS}{OTHER}",
    "quadratic": f"{TOKENIZER}takes more than 1 s for {CHARACTERS}{SHORTER}",
    "just below the limit": f"{TOKENIZER}takes more than 1 s for {CHARACTERS}{SHORTER}",
    "gives up": rf"{TOKENIZER}cannot read a text \(Onig: .*retry-limit-in-match over\){OTHER}",
    "long words": f"{TOKENIZER}takes more than 1 s for {CHARACTERS}{SHORTER}",
    "template": f"{TOKENIZER}adds 100,000 special tokens to a row{OTHER}",
    "text in a template": f"{TOKENIZER}takes more than 210 MB of memory for {CHARACTERS}{SHORTER}",
    "far token": f"{TOKENIZER}adds token 70000 to each row, and has 258 tokens{OTHER}",
    "no unknown token": rf"{TOKENIZER}cannot read a text \(WordLevel error: .*\){OTHER}",
}


def small_limits() -> None:
    """In a child: limits for tests, and hard ones, which nothing may reach."""
    supervised.SECONDS, supervised.CHARACTERS_PER_SECOND = 1.0, 1 << 30
    supervised.BYTES, supervised.BYTES_PER_CHARACTER = 200 << 20, 0
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), used + (2 << 30)))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def begin(folder: Path, name: str | None, letters: int = 100_000) -> None:
    """A project with a long row, and a hostile tokenizer or a harmless one."""
    folder.mkdir()
    pieces.begin(folder, ROWS, trials.PIPELINE)
    with (folder / "text.txt").open("a") as file:
        file.write(f"{'a' * letters}!{'=' * letters}\n")
    if name is not None:
        change(folder, name)


def change(folder: Path, name: str) -> None:
    path = folder / "teacher" / "tokenizer.json"
    path.write_text(json.dumps(EXPLODING[name](json.loads(path.read_bytes()))))


def run(folder: Path, *words: str) -> trials.Ended:
    return trials.end(trials.begin([*words, FILE], folder, first=small_limits), folder)


@pytest.mark.parametrize("name", ENDS)
def test_a_tokenizer_that_explodes(tmp_path: Path, name: str, figure: Figure) -> None:
    folder = tmp_path / "project"
    letters = {"just below the limit": 3000, "text in a template": 10}
    begin(folder, name, letters.get(name, 100_000))
    start = time.monotonic()
    ended = run(folder, "tokenize")
    seconds = time.monotonic() - start
    assert ended.code == 3, ended.shown
    said = [line for line in ended.shown.splitlines() if line.startswith("kdpipe")]
    assert len(said) == 1
    assert re.fullmatch(f"kdpipe: error: {ENDS[name]}", said[0])
    assert "Traceback" not in ended.shown
    assert seconds < 20
    figure(f"{name}: {seconds:.1f} s with limits of 1 s and 210 MB")


def test_tokens_that_a_model_does_not_know(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    begin(folder, "far words", 10)
    assert run(folder, "tokenize").code == 0
    ended = run(folder, "cache-teacher")
    assert ended.code == 3
    assert ended.shown.endswith(
        "kdpipe: error: a token or its position is none that the model knows: use the tokenizer"
        " that belongs to the model\n"
    )


def test_debug_shows_where_the_call_was(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    begin(folder, "quadratic")
    ended = run(folder, "--debug", "tokenize")
    assert ended.code == 3
    assert ended.shown.count("Traceback") == 1
    assert 'tokenizer.py", line' in ended.shown
    assert ended.shown.splitlines()[-1].startswith("kdpipe: error: teacher: its tokenizer takes")


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    """As after a kill: nothing is left behind, and nothing is locked."""
    folder, other = tmp_path / "project", tmp_path / "other"
    for one in (folder, other):
        begin(one, None)
    path = folder / "teacher" / "tokenizer.json"
    before = path.read_bytes()
    change(folder, "quadratic")
    assert run(folder, "tokenize").code == 3
    path.write_bytes(before)
    assert [run(one, "tokenize").code for one in (folder, other)] == [0, 0]
    # But for the fingerprint of the hostile one, which was loaded.
    assert all(".kdpipe/tokenizers/" in name for name in trials.differences(folder, other))


def leave(error: ArtifactError) -> NoReturn:
    os._exit(7)


def code_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def sleep(seconds: float) -> None:
    """In a child, as native code that lets other threads run."""
    with supervised.watching(leave), supervised.reading("it", ["text"]):
        time.sleep(seconds)
    os._exit(0)


def test_a_forked_process_is_watched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with supervised.watching(leave), supervised.reading("it", []):
        time.sleep(0.01)
    monkeypatch.setattr(supervised, "SECONDS", 0.2)
    if (child := os.fork()) == 0:
        sleep(20)
    assert code_of(child) == 7


def test_a_stopped_process_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "SECONDS", 1.0)
    if (child := os.fork()) == 0:
        sleep(0.5)
    time.sleep(0.2)
    os.kill(child, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(child, signal.SIGCONT)
    assert code_of(child) == 0


def test_a_library_ends_nobodys_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "SECONDS", 0.0)
    with supervised.reading("it", []):
        time.sleep(0.2)


class Beyond(Exception):
    pass


@pytest.mark.parametrize(
    ("seconds", "grown", "texts", "said"),
    [
        (60.1, 0, ["x"], "it takes more than 60 s for 1 characters: why"),
        (79.0, 0, ["x" * 999_999, ("x", "")], None),
        (80.1, 0, ["x" * 999_999, ("", "x")], "it takes more than 80 s for 1,000,000 characters:"),
        (0, (1 << 30) + 2000, ["x"], "it takes more than 1.07 GB of memory for 1 characters: why"),
        (0, (1 << 30) + 2000, ["xx"], None),
    ],
)
def test_limits_grow_with_the_text(
    monkeypatch: pytest.MonkeyPatch, seconds: float, grown: int, texts: list, said: str | None
) -> None:
    def end(error: ArtifactError) -> NoReturn:
        raise Beyond(str(error))

    monkeypatch.setattr(supervised, "_memory", lambda: 5 + grown)
    call = supervised._Call("it", texts, 1.0, "why", end, None, 0, 5, seconds - supervised._TICK)
    if said is None:
        call.look()
    else:
        with pytest.raises(Beyond, match=f"^{re.escape(said)}"):
            call.look()


def test_memory_where_the_system_does_not_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "_STATM", "/nowhere")
    before = supervised._memory()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert before >= most - (1 << 20)
    bytes_of_it = b"x" * (before + (64 << 20))
    assert supervised._memory() >= before + (32 << 20)
    del bytes_of_it


def test_files_that_are_too_large_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_teacher_folder(tmp_path / "teacher")
    path = folder / "tokenizer.json"
    record = json.loads(path.read_bytes())
    pieces = [["?", 0.0], ["abcdefgh", -1.0]]
    path.write_text(
        json.dumps(record | {"model": {"type": "Unigram", "unk_id": 0, "vocab": pieces}})
    )
    load_tokenizer(folder)
    monkeypatch.setattr(tokenizer_file, "_MOST_PIECES", 8)
    with pytest.raises(ArtifactError, match="its vocabulary has 9 characters, more than 8"):
        load_tokenizer(folder)
    monkeypatch.setattr(tokenizer_file, "_MOST", 100)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: \d+ bytes is more than 100"):
        load_tokenizer(folder)


def test_a_normalizer_that_is_none_is_refused_as_it_is_loaded(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "teacher")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"normalizer": {"type": "None"}}))
    with pytest.raises(ArtifactError, match="its tokenizer cannot be loaded"):
        load_tokenizer(folder)
