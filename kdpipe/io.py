"""Every durable change of the disk, in one place: whole files or nothing, never an edit in place.

A file is written under a temporary name in its own folder, fsynced, given its name, and its folder
is fsynced: only then is it acknowledged. `write_file` replaces; `publish` never does, so of two
writers of one content-keyed file the first wins. What dead runs
left under temporary names is swept by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from safetensors import SafetensorError

from kdpipe.errors import LockedError

TEMPORARY = ".tmp-"
_CHUNK = 1 << 22


def canonical(value: Any) -> bytes:
    """The one JSON form of a value: sorted keys, no blanks, no NaN; raises on anything not JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8")


def identity(value: Any) -> str:
    """sha256 of the canonical JSON of `value`, as hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def digest_bytes(data: bytes | memoryview) -> str:
    """`xxh3_128:<hex>`: finds accidents, not attackers."""
    return f"xxh3_128:{xxhash.xxh3_128_hexdigest(data)}"


def digest_file(path: Path, algorithm: str = "xxh3_128") -> str:
    """`<algorithm>:<hex>` of a file; `xxh3_128` for shards and blocks, `sha256` for models."""
    state = xxhash.xxh3_128() if algorithm == "xxh3_128" else hashlib.new(algorithm)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return f"{algorithm}:{state.hexdigest()}"


def digest_arrays(arrays: list[npt.NDArray[np.int64]]) -> str:
    """sha256 of arrays one after the other, each with its length before it, as hex."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(len(array).to_bytes(8, "little"))
        state.update(array.data)
    return state.hexdigest()


def make_folder(path: Path) -> None:
    """Create a folder and its parents, durably."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        _sync_folder(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Create or replace `path` with `data`."""
    with _temporary(path) as temporary:
        _write(temporary, data)
        temporary.replace(path)
    _sync_folder(path.parent)


def publish(path: Path, data: bytes) -> None:
    """Create `path` with `data` unless it exists: the first of two writers wins."""
    with _temporary(path) as temporary:
        _write(temporary, data)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    _sync_folder(path.parent)


def place(source: Path, path: Path) -> None:
    """Make `path` the same file as `source` (hard link), or a copy where links are not possible."""
    with contextlib.suppress(FileNotFoundError):
        if path.samefile(source):
            return
    with _temporary(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            _sync_file(temporary)
        temporary.replace(path)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def prune(folder: Path, keep: set[str]) -> None:
    """Remove everything directly in `folder` whose name is not in `keep`."""
    for path in folder.iterdir():
        if path.name not in keep:
            remove(path)
    _sync_folder(folder)


def sweep(folder: Path) -> None:
    """Remove what killed runs of this machine left under temporary names, also in subfolders."""
    for path in folder.rglob(f"{TEMPORARY}{_host()}-*"):
        process = int(path.name.removeprefix(f"{TEMPORARY}{_host()}-").partition("-")[0])
        if not _is_alive(process):
            remove(path)


@contextlib.contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold `path` for one process; raises LockedError naming the owner when another has it."""
    make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 100).decode("utf-8", "replace").strip() or "unknown"
            raise LockedError(
                f"{what} is being written by process {owner}: wait for it to end, or stop it"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    temporary = path.parent / f"{TEMPORARY}{_host()}-{os.getpid()}-{uuid.uuid4().hex[:16]}"
    try:
        yield temporary
    except (OSError, SafetensorError) as error:
        # A failed write names no file, or one of a name that says nothing to a user.
        if getattr(error, "filename", None) in {None, os.fspath(temporary)}:
            error.filename = os.fspath(path)  # type: ignore[union-attr]
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _host() -> str:
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
