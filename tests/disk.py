"""A disk that dies, fails, or remembers: it stands in for the module `os` inside `kdpipe.io`.

Every call that changes the disk is counted and has a name, such as `write artifacts/x/.tmp-`. At
one of them the process can be killed, before or after it, or stopped, or the call can fail. All of
them are kept in a log, from which the folder can be rebuilt as a power cut may have left it: what
was not synced is there, not there, half there or zeros.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdpipe import io

DIRECTORY = "/"
"""What a name stands for that is a folder; else it is a number, or the path of an old file."""
Key = int | str
FREES = {"unlink", "rmdir", "replace", "close"}
"""Calls that a full disk does not hinder."""


@dataclass(frozen=True)
class Fault:
    """What happens at the durable call `at`, counted from 0."""

    at: int
    what: str
    """`before` or `after`: killed there; `stop`: waits there for SIGCONT; `short`: half of it is
    written; else a name of errno."""
    lasting: bool = False
    """Whether all later calls fail too."""

    def __str__(self) -> str:
        return f"{self.what} call {self.at}{' and all later ones' if self.lasting else ''}"


@dataclass
class Disk:
    """The functions of `os` that `kdpipe.io` uses, with one fault."""

    fault: Fault | None = None
    calls: list[str] = field(default_factory=list)
    """Name of each durable call, with the path that it is about."""
    places: list[int] = field(default_factory=list)
    """Where the log was as each of them began."""
    log: list[tuple[Any, ...]] = field(default_factory=list)
    """`create key`, `write_data key data`, `fsync key`, `names folder {name: key}`, `sync folder`,
    `done path`: the function of `kdpipe.io` that made it has returned."""
    _keys: dict[str, Key | None] = field(default_factory=dict)
    _open: dict[int, tuple[str, Key]] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def stand_in(self) -> None:
        """Replace the module `os` of `kdpipe.io` for the rest of this process."""
        vars(io)["os"] = self
        for name in ("write_file", "publish"):
            vars(io)[name] = self._noting(getattr(io, name))

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        text = os.fspath(path)
        if not flags & os.O_CREAT:
            folder = os.open(path, flags, mode)
            self._open[folder] = (text, DIRECTORY)
            return folder
        new = not os.path.lexists(path)
        descriptor: int = self._call("create", text, lambda: os.open(path, flags, mode))
        if new:
            self._keys[text] = key = len(self.log)
            self.log += [("create", key), _names(text, key)]
        self._open[descriptor] = (text, self._key(text))
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        path, key = self._open[descriptor]
        fault = self.fault
        if fault is not None and fault.what == "short" and fault.at == len(self.calls):
            data = data[: max(len(data) // 2, 1)]
        count: int = self._call("write", path, lambda: os.write(descriptor, data))
        self.log.append(("write_data", key, bytes(data[:count])))
        return count

    def fsync(self, descriptor: int) -> None:
        path, key = self._open[descriptor]
        self._call("fsync", path, lambda: os.fsync(descriptor))
        self.log.append(("sync", path) if key == DIRECTORY else ("fsync", key))

    def close(self, descriptor: int) -> None:
        path, key = self._open.pop(descriptor)
        if key == DIRECTORY:
            os.close(descriptor)
        else:
            self._call("close", path, lambda: os.close(descriptor))

    def pwrite(self, descriptor: int, data: bytes, place: int) -> int:
        path = self._open[descriptor][0]
        count: int = self._call("pwrite", path, lambda: os.pwrite(descriptor, data, place))
        return count

    def link(self, source: Path, path: Path) -> None:
        self._call("link", os.fspath(path), lambda: os.link(source, path), os.fspath(source))
        key = self._keys[os.fspath(path)] = self._key(os.fspath(source))
        self.log.append(_names(os.fspath(path), key))

    def replace(self, source: Path, path: Path) -> None:
        self._call("replace", os.fspath(path), lambda: os.replace(source, path), os.fspath(source))
        key = self._keys[os.fspath(path)] = self._key(os.fspath(source))
        self._keys[os.fspath(source)] = None
        folder, _, old = os.fspath(source).rpartition("/")
        assert folder == os.fspath(path).rpartition("/")[0], "both names are in one folder"
        self.log.append(("names", folder, {old: None, Path(path).name: key}))

    def unlink(self, path: Path) -> None:
        self._removed("unlink", os.fspath(path), lambda: os.unlink(path))

    def rmdir(self, path: Path) -> None:
        self._removed("rmdir", os.fspath(path), lambda: os.rmdir(path))

    def mkdir(self, path: Path) -> None:
        self._call("mkdir", os.fspath(path), lambda: os.mkdir(path))
        self.log.append(_names(os.fspath(path), DIRECTORY))

    def _removed(self, name: str, path: str, act: Callable[[], None]) -> None:
        if not os.path.lexists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self._call(name, path, act)
        self._keys[path] = None
        self.log.append(_names(path, None))

    def _call(self, name: str, path: str, act: Callable[[], Any], source: str = "") -> Any:
        """Do it, unless the fault is here."""
        at, fault = len(self.calls), self.fault
        self.calls.append(f"{name} {_steady(path)}")
        self.places.append(len(self.log))
        if fault is None or at < fault.at or (at > fault.at and not fault.lasting):
            return act()
        if fault.what in {"before", "after"}:
            if fault.what == "after":
                act()
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.what == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        spared = fault.what in {"ENOSPC", "EDQUOT"} and name in FREES
        if fault.what in {"short", "stop"} or spared:
            return act()
        if name == "close":
            act()  # Linux has closed it all the same
        number = getattr(errno, fault.what)
        if name in {"write", "fsync", "close", "pwrite"}:
            raise OSError(number, os.strerror(number))
        raise OSError(number, os.strerror(number), source or path)

    def _noting(self, function: Callable[..., None]) -> Callable[..., None]:
        def noting(path: Path, data: bytes) -> None:
            function(path, data)
            self.log.append(("done", os.fspath(path)))

        return noting

    def _key(self, path: str) -> Key:
        key = self._keys.get(path)
        # What this process removed another one may have made again.
        return path if key is None else key


def _names(path: str, key: Key | None) -> tuple[Any, ...]:
    folder, _, name = path.rpartition("/")
    return "names", folder, {name: key}


def _steady(path: str) -> str:
    """The path without what differs from run to run."""
    return re.sub(r"\.tmp-[\w-]+", ".tmp-", path)
