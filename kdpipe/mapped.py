"""Files that are read where they lie: what was made of them is kept only while they stay so."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class _State(NamedTuple):
    """What tells a file from another one, and from itself once it was written into."""

    place: tuple[int, int]
    """Device and inode."""
    size: int
    written: int
    """Nanoseconds."""


class Mapped:
    """Files that this process has mapped, each as it was before it was read."""

    def __init__(self) -> None:
        """None yet."""
        self._files: dict[Path, tuple[_State | None, Callable[[], object]]] = {}

    def note(self, check: Callable[[], object], *paths: Path) -> None:
        """Look at files that will be mapped; `check` reads them, and raises where one is not right.

        Raises:
            ArtifactError: `check` does.
        """
        states = {path: _state(path) for path in paths}
        check()
        self._files |= {path: (state, check) for path, state in states.items()}

    def refuse_changed(self, *paths: Path) -> None:
        """Check once more what was written into since, of these files or of all.

        Raises:
            ArtifactError: one of them is not what it was, so what was read of it may be wrong.
        """
        for path in paths or tuple(self._files):
            before, check = self._files[path]
            now = _state(path)
            # Another file of this name, or none, leaves alone what is mapped.
            if before is None or now is None or now.place != before.place or now == before:
                continue
            self.note(check, path)


def _state(path: Path) -> _State | None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return _State((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns)
