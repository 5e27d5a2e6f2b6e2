"""The store as a whole: listed, verified, repaired, and rid of what no cache names."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from kdpipe import cli, io, records, store_keeping
from kdpipe.stages.manage_cache import cache
from kdpipe.store import Store
from kdpipe.store_keeping import Damage
from tests import ends
from tests.conftest import Figure
from tests.ends import Capture, begin, command, edit, fails, wait_for

STORE = Path(".kdpipe/store")
CACHE = Path("artifacts/caches/said")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a corpus of several blocks and a cache of it."""
    yield from ends.made_project(tmp_path_factory.mktemp("made"), tokens_per_block=128)


@pytest.fixture
def here(here: Path) -> Path:
    """The same; its cache is linked with its store, as it was."""
    link(CACHE)
    return here


def link(cache: Path) -> None:
    """Make the files of a cache hard links of the store's again, which a copy loses."""
    for path in shard_files():
        for other in cache.glob(f"*-{path.stem[:32]}.safetensors"):
            other.unlink()
            os.link(path, other)


def shard_files() -> list[Path]:
    return sorted(STORE.glob("*/*.safetensors"))


def tree(folder: Path) -> dict[str, bytes]:
    """Files by name, but for the lock."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def unnamed() -> set[str]:
    """Keys that gc would remove."""
    lines = store_keeping.collect(Store(STORE), Path(), remove=False)
    return {shard.key for line in lines for shard in line.unnamed}


def said(capsys: Capture) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_ls_counts_what_is_there(here: Path, capsys: Capture) -> None:
    edit("{kind: embedding, storage: fp32}", "{kind: embedding, storage: fp16}")
    edit("said", "more")
    command(["cache-teacher", "pipeline.yaml", "more"])
    shutil.rmtree(CACHE)
    full, half = store_keeping.ledger(Store(STORE), Path())[::-1]
    assert (full.question, half.question) == ("embedding.fp32", "embedding.fp16")
    assert (full.shards, half.shards) == (len(shard_files()) // 2,) * 2
    teacher = json.loads(Path("artifacts/caches/more/manifest.json").read_text())["facts"][
        "teacher"
    ]
    assert full.teacher == half.teacher == teacher[:12]
    sizes = {path.stem: path.stat().st_size for path in shard_files()}
    assert full.bytes + half.bytes == sum(sizes.values())
    assert (full.used_by, half.used_by) == (set(), {"more"})
    assert half.unnamed == []
    gone = {shard.key for shard in full.unnamed}
    assert sum(sizes[key] for key in gone) == full.bytes > half.bytes
    capsys.readouterr()
    cache("ls")
    shown = said(capsys)
    (row,) = [line.split() for line in shown if "fp32" in line]
    count = str(full.shards)
    assert row == [
        teacher[:12],
        "embedding.fp32",
        count,
        f"{full.bytes:,}",
        count,
        f"{full.bytes:,}",
    ]
    assert shown[-1].startswith(f".kdpipe/store: {2 * full.shards} shards, ")


def test_a_store_that_is_not_there_is_empty(project: Path, capsys: Capture) -> None:
    for action in ("ls", "gc", "verify"):
        cache(action)
    assert said(capsys) == [
        ".kdpipe/store: 0 shards, 0 B; 0 B in no cache",
        ".kdpipe/store: 0 shards, 0 B, in no cache",
        ".kdpipe/store: 0 shards, all as their receipts say",
    ]
    assert not any(project.iterdir())


def test_options_of_other_actions_are_refused(capsys: Capture) -> None:
    for words, line in {
        "gc --repair": "--repair is an option of 'kdpipe cache verify'",
        "ls --remove": "--remove is an option of 'kdpipe cache gc'",
        "verify --remove": "--remove is an option of 'kdpipe cache gc'",
    }.items():
        assert fails(capsys, ["cache", *words.split()], 2) == line


def test_gc_lists_first_and_removes_only_when_told(here: Path, capsys: Capture) -> None:
    before = tree(STORE)
    assert unnamed() == set()
    shutil.rmtree(CACHE)
    assert unnamed() == {path.stem for path in shard_files()}
    cache("gc")
    assert tree(STORE) == before
    count = len(shard_files())
    size = sum(path.stat().st_size for path in shard_files())
    text = f"{size / 1000:.3g} kB"
    line = f".kdpipe/store: {count} shards, {text}, in no cache"
    assert said(capsys)[-1] == f"{line}; 'kdpipe cache gc --remove' removes them"
    cache("gc", remove=True)
    assert said(capsys)[-1] == f"{line}: removed"
    # What the teacher is stays: it is small, and asked for again by the next cache.
    assert {*tree(STORE)} == {path.name for path in STORE.glob("teacher-*.json")} != set()
    command(["cache-teacher", "pipeline.yaml"])
    assert tree(STORE) == before


def test_gc_spares_shards_of_another_project(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shares the store, and this project knows of it by the links alone."""
    other = here.parent / "other"
    for name in ("text.txt", "pipeline.yaml", "teacher", "artifacts"):
        source = here / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, _made(other) / name)
    link(other / CACHE)
    shutil.rmtree(CACHE)
    one = min(shard_files())
    (other / CACHE / f"embedding.fp32-{one.stem[:32]}.safetensors").unlink()
    assert unnamed() == {one.stem}
    before = tree(STORE)
    cache("gc", remove=True)
    gone = {f"{one.stem[:2]}/{one.stem}.{suffix}" for suffix in ("json", "safetensors")}
    assert {*before} - {*tree(STORE)} == gone
    # Seen from there the manifest names it, link or not.
    monkeypatch.chdir(other)
    monkeypatch.setenv("KDPIPE_STORE", str(here / STORE))
    command(["cache-teacher", "pipeline.yaml", "--verify"])
    cache("gc", remove=True)
    assert tree(here / STORE) == before


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def test_gc_does_nothing_where_a_manifest_is_damaged(here: Path, capsys: Capture) -> None:
    manifest = CACHE / "manifest.json"
    manifest.write_text(manifest.read_text()[:-9])
    before = tree(STORE)
    line = fails(capsys, ["cache", "gc", "--remove"], 3)
    assert line.startswith("artifacts/caches/said/manifest.json is damaged (")
    assert line.endswith("delete artifacts/caches/said, then run 'kdpipe cache-teacher'")
    assert tree(STORE) == before


def test_gc_waits_for_a_living_writer(here: Path, capsys: Capture) -> None:
    shutil.rmtree(CACHE)
    shutil.rmtree(STORE)
    process = begin(["cache-teacher", "pipeline.yaml"])
    assert process.pid is not None
    try:
        wait_for(process, ".kdpipe/store/*/*.json")
        os.kill(process.pid, signal.SIGSTOP)
        before = {*tree(STORE)}
        for words in (["gc"], ["gc", "--remove"], ["verify", "--repair"]):
            line = fails(capsys, ["cache", *words], 4)
            assert line.startswith(f"the store is being written by process {process.pid} on ")
        assert {*tree(STORE)} == before
        # Others may write and read meanwhile.
        with io.lock(STORE / "lock", "the store", shared=True):
            pass
        assert store_keeping.verify(Store(STORE)) == []
        os.kill(process.pid, signal.SIGCONT)
        process.join(60)
        assert process.exitcode == 0
    finally:
        process.kill()
    assert unnamed() == set()


def test_no_writer_begins_while_the_store_is_collected(here: Path, capsys: Capture) -> None:
    shutil.rmtree(CACHE)
    with io.lock(STORE / "lock", "the store"):
        line = fails(capsys, ["cache-teacher", "pipeline.yaml"], 4)
    assert line.startswith(f"the store is being written by process {os.getpid()} on ")
    command(["cache-teacher", "pipeline.yaml"])


class Dies:
    """`os`, in which this process ends at the n-th file that is unlinked."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def unlink(self, path: Path) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        os.unlink(path)


def test_a_gc_that_is_killed_leaves_nothing_wrong(
    here: Path, monkeypatch: pytest.MonkeyPatch, long: bool, figure: Figure
) -> None:
    shutil.rmtree(CACHE)
    before, tried = tree(STORE), 0
    files = 2 * len(shard_files())
    for number in range(0, files, 1 if long else files // 6 | 1):
        with monkeypatch.context() as patch:
            patch.setattr(io, "os", Dies(number))
            with pytest.raises(KeyboardInterrupt):
                store_keeping.collect(Store(STORE), Path(), remove=True)
        left = {*before} - {*tree(STORE)}
        assert len(left) == number
        # A receipt never stays without its shard.
        alone = {name for name in left if name.endswith(".safetensors")}
        assert all(name.replace(".safetensors", ".json") in left for name in alone)
        for one in store_keeping.verify(Store(STORE)):
            assert one.line.endswith(": it has no receipt, so it does not count")
        command(["cache-teacher", "pipeline.yaml"])
        assert tree(STORE) == before
        shutil.rmtree(CACHE)
        tried += 1
    figure(f"gc killed at {tried} of {files} removals, nothing wrong after any")


def flip(path: Path, place: int) -> None:
    """Turn one bit, in a file of its own."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    replace(path, bytes(data))


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def put(path: Path, **tensors: np.ndarray) -> None:
    """Another answer, with a receipt that fits it in size and digest."""
    replace(path, save({**load_file(path), **tensors} if "values" in tensors else tensors))
    receipt = records.read_sealed(path.with_suffix(".json"))
    receipt |= {"bytes": path.stat().st_size, "digest": io.digest_file(path)}
    path.with_suffix(".json").write_bytes(records.seal(io.canonical(receipt)))


@pytest.fixture
def shards(here: Path) -> list[Path]:
    """Of two caches: enough to damage each in another way."""
    retokenise(32, 12)
    command(["cache-teacher", "pipeline.yaml"])
    return shard_files()


def retokenise(before: int, now: int) -> None:
    """Rows of another length make other shards."""
    edit(f"max_seq_length: {before}", f"max_seq_length: {now}")
    command(["tokenize", "pipeline.yaml"])


def spoil(paths: list[Path]) -> dict[Path, str]:
    """Damage eight shards; what is then said of each."""
    flipped, short, alone, lone, text, swapped, names, infinite, sound = paths[:9]
    flip(flipped, -1)
    replace(short, short.read_bytes()[:-1])
    alone.with_suffix(".json").unlink()
    lone.unlink()
    replace(text.with_suffix(".json"), b"{")
    replace(swapped.with_suffix(".json"), sound.with_suffix(".json").read_bytes())
    put(names, vectors=load_file(names)["values"])
    put(infinite, values=np.full_like(load_file(infinite)["values"], np.inf))
    size, count = short.stat().st_size, load_file(infinite)["values"].size
    return {
        flipped: "its digest differs from its receipt",
        short: f"{size} bytes, {size + 1} in its receipt",
        alone: "it has no receipt, so it does not count",
        lone: "its receipt is there, and the shard is not",
        text: f"its receipt is damaged ({text.with_suffix('.json')} is damaged (its digest"
        " differs): delete it and rerun)",
        swapped: "its receipt is that of another question",
        names: "its tensors (vectors) are none of embedding.fp32",
        infinite: f"NaN or Inf in {count} numbers",
    }


def strangers() -> list[Path]:
    """A file that is not the store's, and one that a run left which was killed."""
    (STORE / "notes.txt").write_text("mine")
    (STORE / ".tmp-12345678-1-2").write_text("of a run that was killed")
    return [STORE / "notes.txt", STORE / ".tmp-12345678-1-2"]


def test_verify_of_a_store_that_is_whole(here: Path, capsys: Capture) -> None:
    command(["cache", "verify"])
    assert said(capsys) == [
        f".kdpipe/store: {len(shard_files())} shards, all as their receipts say"
    ]


def test_verify_names_every_damaged_file(shards: list[Path], capsys: Capture) -> None:
    lines = spoil(shards)
    strangers()
    wanted = [Damage(f"{path}: {line}", path.stem) for path, line in lines.items()]
    wanted += [Damage(f"{STORE}/notes.txt is no file of the store: move it away", None)]
    assert sorted(store_keeping.verify(Store(STORE)), key=str) == sorted(wanted, key=str)
    capsys.readouterr()
    assert cli.main(["cache", "verify"]) == 3
    shown = capsys.readouterr()
    assert sorted(shown.out.splitlines()) == sorted(one.line for one in wanted)
    assert shown.err.splitlines()[-1] == (
        f"kdpipe: error: .kdpipe/store: 8 of {len(shards)} shards damaged: run 'kdpipe cache"
        " verify --repair', which drops what is damaged"
    )


def test_repair_drops_every_damaged_file(shards: list[Path], capsys: Capture) -> None:
    lines = spoil(shards)
    others = strangers()
    capsys.readouterr()
    repaired = cli.main(["cache", "verify", "--repair"])
    shown = capsys.readouterr()
    assert (repaired, shown.out.splitlines()[-1], shown.err.splitlines()[-1]) == (
        3,
        f".kdpipe/store: 8 of {len(shards)} shards dropped: run 'kdpipe cache-teacher' with"
        " --verify, which computes them again",
        "kdpipe: error: .kdpipe/store: 1 file not of the store: move away what is named above",
    )
    for path in others:
        path.unlink()
    assert {*shard_files()} == {*shards} - {*lines}
    for before, now in ((12, 32), (32, 12)):
        retokenise(before, now)
        command(["cache-teacher", "pipeline.yaml", "--verify"])
    # Of rows that both corpora have, either cache may have been the first to ask.
    assert {*shard_files()} == {*shards}
    assert store_keeping.verify(Store(STORE)) == []


def test_a_shard_between_its_name_and_its_receipt_is_no_damage(here: Path) -> None:
    """A writer that is at work will give it one; once the writer is gone nobody will."""
    path = min(shard_files())
    path.with_suffix(".json").unlink()
    with (STORE / "lock").open("w") as writer:
        fcntl.flock(writer, fcntl.LOCK_SH)
        assert store_keeping.verify(Store(STORE)) == []
    line = f"{path}: it has no receipt, so it does not count"
    assert store_keeping.verify(Store(STORE)) == [Damage(line, path.stem)]
