"""Every durable change of the disk, in one place: whole files or nothing, never an edit in place.

A file is written under a temporary name in its own folder, fsynced, given its name, and its folder
is fsynced: only then is it acknowledged. `write_file` replaces; `publish` never does, so of two
writers of one content-keyed file the first wins. What dead runs left is swept by the next one.
Every change goes through a function of `os`, so that tests can stand in for the disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import xxhash

from kdpipe.errors import LockedError

TEMPORARY = ".tmp-"
_OURS = f"{TEMPORARY}{hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()}-"
_CHUNK = 1 << 22
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}
"""Of a file system that cannot make one, or not this one."""


def canonical(value: Any) -> bytes:
    """The one JSON form of a value: sorted keys, no blanks, no NaN; raises on anything not JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def identity(value: Any) -> str:
    """sha256 of the canonical JSON of `value`, as hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def digest_bytes(data: bytes | memoryview) -> str:
    """`xxh3_128:<hex>`: finds accidents, not attackers."""
    return f"xxh3_128:{xxhash.xxh3_128_hexdigest(data)}"


def digest_file(path: Path, algorithm: str = "xxh3_128") -> str:
    """`<algorithm>:<hex>` of a file; `xxh3_128` for shards and blocks, `sha256` for models."""
    state = xxhash.xxh3_128() if algorithm == "xxh3_128" else hashlib.new(algorithm)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return f"{algorithm}:{state.hexdigest()}"


def make_folder(path: Path) -> None:
    """Create a folder and its parents, durably."""
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not folder.is_dir():
                raise
        _sync_folder(folder.parent, folder)


def write_file(path: Path, data: bytes) -> None:
    """Create or replace `path` with `data`."""
    with _temporary(path, len(data)) as temporary:
        _write(temporary, [data])
        os.replace(temporary, path)
    _sync_folder(path.parent)


def publish(path: Path, data: bytes) -> None:
    """Create `path` with `data` unless it exists: the first of two writers wins."""
    with _temporary(path, len(data)) as temporary:
        _write(temporary, [data])
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError as error:
            # Without hard links the last of two writers wins, with the same bytes.
            if error.errno not in _NO_LINKS:
                raise
            os.replace(temporary, path)
    _sync_folder(path.parent)


def place(source: Path, path: Path) -> None:
    """Make `path` the same file as `source` (hard link), or a copy where links are not possible.

    The folder's next `write_file`, that of its manifest, makes it durable.
    """
    with contextlib.suppress(FileNotFoundError):
        if not path.is_symlink() and path.samefile(source):
            return
    with _temporary(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with source.open("rb") as file:
                _write(temporary, iter(lambda: file.read(_CHUNK), b""))
        os.replace(temporary, path)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            for inside in sorted(path.iterdir()):
                remove(inside)
            os.rmdir(path)
        else:
            os.unlink(path)


def forget(path: Path) -> None:
    """Remove a file of a folder that is there; on return it does not come back by a power cut."""
    remove(path)
    _sync_folder(path.parent)


def prune(folder: Path, keep: set[str]) -> None:
    """Remove everything directly in `folder` whose name is not in `keep`, and `sweep` the rest."""
    # Where locks do not work there may be another writer.
    for path in folder.iterdir():
        if path.name not in keep and not _is_being_written(path):
            remove(path)
    sweep(folder)
    _sync_folder(folder)


def sweep(folder: Path) -> None:
    """Remove what killed runs of this machine left under temporary names, also in subfolders."""
    for path in (found for found in folder.rglob(f"{_OURS}*") if not _is_being_written(found)):
        remove(path)


@contextlib.contextmanager
def lock(path: Path, what: str, *, shared: bool = False) -> Iterator[None]:
    """Hold `path` for one process; raises LockedError naming the owner when another has it.

    Those who hold it `shared` bear each other; the last of them to come is named as its owner.
    """
    make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(
                f"{what} is being written by process {_owner(descriptor)}: wait for it to end, or"
                " stop it"
            ) from None
        told = f"{os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
        with _about(path):
            # Only the first line counts: what an earlier owner wrote may stand behind it.
            os.pwrite(descriptor, told.encode(), 0)
        yield
    finally:
        with _about(path):
            os.close(descriptor)


@contextlib.contextmanager
def _temporary(path: Path, size: int | None = None) -> Iterator[Path]:
    """A name for what becomes `path`, of `size` bytes; nothing is left there when it fails."""
    temporary = path.parent / f"{_OURS}{os.getpid()}-{uuid.uuid4().hex[:16]}"
    try:
        with _about(path, temporary, size):
            yield temporary
            remove(temporary)
    except FileNotFoundError:
        raise LockedError(
            f"{path.parent} was taken away by another process: wait for it to end, or stop it"
        ) from None
    except BaseException:
        # What went wrong first is what is told.
        with contextlib.suppress(OSError):
            remove(temporary)
        raise


@contextlib.contextmanager
def _about(path: Path, temporary: Path | None = None, size: int | None = None) -> Iterator[None]:
    """Errors name `path`: a failed write names no file, or one that says nothing to a user."""
    try:
        yield
    except OSError as error:
        if error.filename is None or error.filename == os.fspath(temporary or path):
            del error.filename2
            error.filename, error.size = os.fspath(path), size  # type: ignore[attr-defined]
        raise


def _owner(descriptor: int) -> str:
    """Who holds a lock, as it says itself a moment after it has it."""
    for _ in range(20):
        owner = os.pread(descriptor, 200, 0).decode("utf-8", "replace").partition("\n")[0]
        process, _, place = owner.partition(" on ")
        # A dead owner's words stand there until the new one's do.
        here = place.startswith(f"{platform.node()} ")
        if here and process.isdecimal() and _is_alive(int(process)):
            break
        time.sleep(0.05)
    return owner or "unknown"


def _is_being_written(path: Path) -> bool:
    """Whether it is a temporary file of a process of this machine that is alive."""
    host, _, process = path.name.rpartition("-")[0].rpartition("-")
    return f"{host}-" == _OURS and process.isdecimal() and _is_alive(int(process))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    """A new file, durable but for its name."""
    # Never through a link that somebody has laid.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o666)
    try:
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path, about: Path | None = None) -> None:
    """Make its entries durable; errors name what was made in it, if that is said."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with _about(about or path, path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
