"""The folder that a power cut may leave, rebuilt from the log of `tests.disk`.

What was not synced is up to chance: names that were made, moved or removed are so or not, one by
one and in no order; data is there, not there, half there, or zeros of its full size.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.disk import DIRECTORY, Key

NAMES = ("lost", "kept", "some", "some")
DATA = ("lost", "kept", "half", "zeros", "some")


@dataclass
class Cut:
    """A disk at some place of the log."""

    base: Path
    """The folder as it was before."""
    names: dict[str, dict[str, Key]] = field(default_factory=lambda: defaultdict(dict))
    """Folder -> name -> what it stands for, as it is on the disk."""
    waiting: dict[str, list[dict[str, Key | None]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Changes of names that are not on the disk yet."""
    seen: dict[str, Key | None] = field(default_factory=dict)
    """Path -> what processes see there."""
    data: dict[Key, bytes] = field(default_factory=dict)
    synced: dict[Key, bytes] = field(default_factory=dict)
    done: dict[str, Key] = field(default_factory=dict)
    """Path -> what `kdpipe.io` has said is safe there, and nothing has touched since."""

    def play(self, log: Sequence[tuple[Any, ...]]) -> None:
        """All that happened before the cut."""
        for path in self.base.rglob("*"):
            name = path.relative_to(self.base).as_posix()
            key = DIRECTORY if path.is_dir() else name
            self.names[_parent(name)][path.name] = self.seen[name] = key
        for operation, *about in log:
            getattr(self, f"_{operation}")(*about)

    def content(self, key: Key) -> bytes:
        """Of a file, as processes see it."""
        return (self.base / key).read_bytes() if isinstance(key, str) else self.data[key]

    def leave(self, target: Path, draw: random.Random) -> str:
        """Make the folder in `target`; how it was drawn."""
        how = draw.choice(NAMES), draw.choice(DATA)
        left = {folder: dict(names) for folder, names in self.names.items()}
        for folder, changes in self.waiting.items():
            for change in changes:
                if how[0] == "kept" or (how[0] == "some" and draw.random() < 0.5):
                    _apply(left.setdefault(folder, {}), change)
        self._write(target, "", left, how[1], draw)
        return "names {}, data {}".format(*how)

    def _write(
        self,
        target: Path,
        folder: str,
        left: dict[str, dict[str, Key]],
        how: str,
        draw: random.Random,
    ) -> None:
        (target / folder).mkdir()
        for name, key in left.get(folder, {}).items():
            path = f"{folder}/{name}" if folder else name
            if key == DIRECTORY:
                self._write(target, path, left, how, draw)
            elif isinstance(key, str):
                os.link(self.base / key, target / path)
            else:
                (target / path).write_bytes(self._drawn(key, how, draw))

    def _drawn(self, key: Key, how: str, draw: random.Random) -> bytes:
        safe, all_of_it = self.synced[key], self.data[key]
        if safe == all_of_it:
            return safe
        rest = all_of_it[len(safe) :]
        how = draw.choice(DATA[:-1]) if how == "some" else how
        kinds = {"lost": b"", "kept": rest, "half": rest[: len(rest) // 2]}
        return safe + kinds.get(how, b"\0" * len(rest))

    def _create(self, key: Key) -> None:
        self.data[key] = self.synced[key] = b""

    def _write_data(self, key: Key, data: bytes) -> None:
        if key in self.data:  # a lock, from before, is of no interest
            self.data[key] += data

    def _fsync(self, key: Key) -> None:
        self.synced[key] = self.data[key]

    def _names(self, folder: str, change: dict[str, Key | None]) -> None:
        self.waiting[folder].append(change)
        for name, key in change.items():
            path = f"{folder}/{name}" if folder else name
            self.seen[path] = key
            self.done.pop(path, None)
            if key == DIRECTORY:
                self.names[path], self.waiting[path] = {}, []

    def _sync(self, folder: str) -> None:
        folder = "" if folder == "." else folder
        for change in self.waiting.pop(folder, []):
            _apply(self.names[folder], change)

    def _done(self, path: str) -> None:
        key = self.seen[path]
        assert key is not None
        self.done[path] = key


def _apply(names: dict[str, Key], change: dict[str, Key | None]) -> None:
    for name, key in change.items():
        names.pop(name, None)
        if key is not None:
            names[name] = key


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
