"""Whole files or nothing, first writer wins, dead runs are swept, living ones are not."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys

import pytest

from kdpipe import io
from kdpipe.errors import LockedError, explain


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a"
    io.write_file(path, b"old")

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        io.write_file(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"old"


def test_publish_does_not_replace(tmp_path):
    io.publish(tmp_path / "a", b"first")
    io.publish(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        io.write_file(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_sweep_takes_what_dead_processes_left_and_nothing_else(tmp_path):
    script = (
        f"import kdpipe.io as io, os, pathlib; p = pathlib.Path({str(tmp_path / 'sub')!r})\n"
        + (
            "io.make_folder(p)\nwith io._temporary(p / 'x') as t:\n"
            "    t.write_bytes(b'1'); os._exit(9)"
        )
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    with io._temporary(tmp_path / "mine") as mine:
        mine.write_bytes(b"")
        (tmp_path / "kept").write_bytes(b"")
        io.sweep(tmp_path)
        left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
        assert left == sorted([mine.name, "kept"])


def test_second_holder_of_a_lock_is_told_who_has_it(tmp_path):
    with io.lock(tmp_path / "locks" / "a", "cache a"):
        message = (
            rf"^cache a is being written by process {os.getpid()} on {platform.node()} since"
            r" \d{4}-\d\d-\d\d \d\d:\d\d:\d\d: wait for it to end, or stop it$"
        )
        with (
            pytest.raises(LockedError, match=message),
            io.lock(tmp_path / "locks" / "a", "cache a"),
        ):
            pass
    with io.lock(tmp_path / "locks" / "a", "cache a"):
        pass


def test_shared_holders_of_a_lock_bear_each_other_alone(tmp_path):
    path = tmp_path / "lock"
    with (
        io.lock(path, "it", shared=True),
        io.lock(path, "it", shared=True),
        pytest.raises(LockedError),
        io.lock(path, "it"),
    ):
        pass
    with io.lock(path, "it"), pytest.raises(LockedError), io.lock(path, "it", shared=True):
        pass


def test_place_links_and_replaces(tmp_path):
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")
    io.place(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").samefile(tmp_path / "source")


def test_canonical_json_refuses_what_has_no_one_form():
    assert io.canonical({"b": 1, "a": [1.5, None]}) == b'{"a":[1.5,null],"b":1}'
    for wrong in (float("nan"), object(), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            io.canonical(wrong)


def test_digests(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert io.digest_file(tmp_path / "a", "sha256") == (
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert io.digest_file(tmp_path / "a") == io.digest_bytes(b"abc")


def test_a_folder_that_another_process_took_away(tmp_path):
    gone = tmp_path / "gone"
    message = f"{gone} was taken away by another process: wait for it to end, or stop it"
    for change in (io.write_file, io.publish):
        with pytest.raises(LockedError) as caught:
            change(gone / "a", b"")
        assert str(caught.value) == message
    with pytest.raises(LockedError, match="was taken away"):
        io.place(tmp_path / "none", tmp_path / "a")
    assert [*tmp_path.iterdir()] == []


def test_a_folder_into_which_another_process_writes():
    error = OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), "runs/a")
    known = explain(error)
    assert isinstance(known, LockedError)
    assert str(known) == "another process writes in runs/a: wait for it to end, or stop it"


def test_prune_spares_what_another_process_is_writing(tmp_path):
    for name in ("kept", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(b"")
    with io._temporary(tmp_path / "kept" / "b") as inner, io._temporary(tmp_path / "c") as outer:
        inner.write_bytes(b"")
        outer.write_bytes(b"")
        io.prune(tmp_path, {"kept"})
        assert inner.exists()
        assert outer.exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "kept"]
