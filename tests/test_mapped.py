"""A file is cut while it is mapped: its reader dies, and the damage is found and made again."""

from __future__ import annotations

import mmap
import os
import random
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest

from kdpipe import io
from kdpipe.artifact import MANIFEST
from kdpipe.cache import Cache, open_cache
from kdpipe.cli import main
from kdpipe.corpus import open_corpus
from tests.conftest import Figure
from tests.damage import put
from tests.ends import FILE, Capture, begin, command, edit, fails, run_words, wait_for
from tests.pieces import sentences, write_text
from tests.trials import FORKS, PRELOAD

CORPUS, CACHE = Path("artifacts/corpora/text"), Path("artifacts/caches/said")
STUDENT = Path("artifacts/students/small")
KINDS = {"block": f"{CORPUS}/*.arrow", "shard": f"{CACHE}/*.safetensors"}
MAKES = {"block": "tokenize", "shard": "cache-teacher"}
CUTS, FEW_CUTS = 50, 2
"""Of each kind."""


def everything(cache: Cache) -> list[bytes]:
    """All that a corpus and its cache say."""
    rows = np.arange(cache.corpus.facts.rows)
    read, said = cache.corpus.gather(rows), cache.read(rows, cache.provides)
    values = [said.values[part].numpy() for part in sorted(cache.provides, key=str)]
    blocks = map(cache.corpus.block, range(len(cache.corpus.facts.blocks)))
    digests = [block.text_digest for block in blocks]
    return [array.tobytes() for array in (read.ids, read.lengths, *values, *digests)]


def read_twice(pipe: Connection) -> None:
    """In a process of its own: read all, wait for a word, and read it again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cache = open_cache(CACHE, open_corpus(CORPUS))
    before = everything(cache)
    pipe.send("all is mapped")
    pipe.recv()
    os._exit(0 if everything(cache) == before else 1)


@contextmanager
def reader() -> Iterator[ForkServerProcess]:
    """A process that has read all; after the block it reads again, and ends."""
    FORKS.set_forkserver_preload(PRELOAD)
    mine, its = FORKS.Pipe()
    process = FORKS.Process(target=read_twice, args=(its,))
    process.start()
    its.close()
    mine.recv()
    yield process
    mine.send("go on")
    process.join(60)
    mine.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(600)
def test_a_reader_dies_where_a_file_is_cut(
    here: Path, kind: str, long: bool, figure: Figure
) -> None:
    draw, files = random.Random(kind), sorted(Path().glob(KINDS[kind]))
    cuts = CUTS if long else FEW_CUTS
    for trial in range(cuts):
        path = draw.choice(files)
        data = path.read_bytes()
        # What is cut off from a page reads as zeros: only a page that is gone is not read at all.
        assert len(data) > 6 * mmap.PAGESIZE
        size = draw.randrange(len(data) // 2) if trial else 0
        with put(path, data):
            with reader() as process:
                os.truncate(path, size)
            assert process.exitcode == -signal.SIGBUS, (path, size)
    figure(f"{cuts} times a {kind} cut under its reader: all ended by SIGBUS")


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_dies_and_goes_on(here: Path, kind: str, capsys: Capture) -> None:
    edit("save_steps: 500", "save_steps: 4")
    train = ["train", str(FILE)]
    command(train)
    expected = written(STUDENT)
    shutil.rmtree(STUDENT)

    path = sorted(Path().glob(KINDS[kind]))[0]
    data = path.read_bytes()
    process = begin(train, without_a_core)
    assert process.pid is not None
    wait_for(process, ".kdpipe/runs/*/step-*")
    os.kill(process.pid, signal.SIGSTOP)
    os.truncate(path, 0)
    os.kill(process.pid, signal.SIGCONT)
    process.join(60)
    assert process.exitcode == -signal.SIGBUS
    assert not (STUDENT / MANIFEST).exists()

    capsys.readouterr()
    assert fails(capsys, train, 3).startswith(f"{path} is missing or cut short (")
    assert main(["verify", "."]) == 3
    assert f"{path} is missing or cut short (" in capsys.readouterr().out
    command([MAKES[kind], str(FILE)])
    assert path.read_bytes() == data
    command(train)
    assert "continuing after step " in capsys.readouterr().err
    assert written(STUDENT) == expected
    command(["verify", "."])


def without_a_core(words: list[str]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    run_words(words)


def written(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_another_file_of_that_name_is_none_of_its_reader(here: Path, kind: str) -> None:
    path = sorted(Path().glob(KINDS[kind]))[0]
    with reader() as process:
        io.write_file(path, b"other")
    assert process.exitcode == 0


def test_a_reader_of_what_is_made_otherwise_has_what_was(here: Path) -> None:
    with reader() as process:
        write_text(Path("text.txt"), sentences(300, 50))
        command(["tokenize", str(FILE)])
        command(["cache-teacher", str(FILE)])
    assert process.exitcode == 0
