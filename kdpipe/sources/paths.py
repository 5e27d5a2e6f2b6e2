"""Which local files a source names: files, folders and globs."""

from __future__ import annotations

import glob
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import Field

from kdpipe import io
from kdpipe.config import Frozen, nearest
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.sources.columns import Text
from kdpipe.sources.formats import damage_named, suffix_of
from kdpipe.sources.row import Row

T = TypeVar("T")


class NamedFiles(Frozen, ABC):
    """Local files, folders and globs."""

    known: ClassVar[Collection[str]]
    """Suffixes of the files that are read in a folder."""
    only_known: ClassVar[bool] = True
    """Whether files of other names are refused."""

    files: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Files, folders (all that can be read in them, at any depth) and globs (`**`: any depth)."""

    def rows(self, root: Path) -> Iterator[Row]:
        """Rows of all files, folders and globs in sorted order, each file once.

        Raises UsageError for a file of no known format, and ArtifactError naming file and line for
        what is missing, empty, damaged, not UTF-8 or of the wrong type.
        """
        return self.read(root, self.rows_of)

    @abstractmethod
    def rows_of(self, path: Path) -> Iterator[Row]:
        """Rows of one file."""

    def read(self, root: Path, read: Callable[[Path], Iterator[T]]) -> Iterator[T]:
        """What `read` finds in each file; raises as `rows` does."""
        for path in self.found(root):
            empty = True
            with damage_named(path):
                for one in read(path) if path.stat().st_size else ():
                    empty = False
                    yield one
            if empty:
                remedy = "mend it, or take it out of 'files'"
                raise ArtifactError(f"{path} is empty: no row has text; {remedy}")

    def found(self, root: Path) -> list[Path]:
        """All files, each once and in order.

        Raises ArtifactError for one that is not there, UsageError for one of no known format.
        """
        files = [path for name in self.files for path in self._expand(root, name)]
        for path in files:
            suffix = suffix_of(path)
            if not path.is_file():
                made = Path(path).parts[-3:-1] == ("artifacts", "texts")
                remedy = (
                    "run 'kdpipe augment' first" if made else "check 'files' in the pipeline file"
                )
                raise ArtifactError(f"{path} does not exist: {remedy}")
            if self.only_known and suffix not in self.known:
                allowed = nearest(suffix, [*self.known])
                raise UsageError(f"{path}: unknown format {suffix!r}: {allowed}")
        return [*dict.fromkeys(files)]

    def paths(self, root: Path) -> list[str]:
        """What this source reads, relative to `root`: files, folders, and the matches of globs.

        Raises ArtifactError for a glob that matches nothing.
        """
        found: list[Path] = []
        for name in self.files:
            found += self._expand(root, name) if _is_glob(root, name) else [root / name]
        return sorted({Path(os.path.relpath(path, root)).as_posix() for path in found})

    def state(self, root: Path) -> str:
        """What the text depends on: the bytes of the files, their formats and their order."""
        return io.identity([[suffix_of(file), io.digest_file(file)] for file in self.found(root)])

    def _expand(self, root: Path, name: str) -> list[Path]:
        """The files that one entry of `files` means."""
        path = root / name
        if path.is_dir():
            found = [file for file in _glob(path, "**") if suffix_of(file) in self.known]
            if not found:
                allowed = ", ".join(self.known)
                raise ArtifactError(
                    f"{path} is a folder without a file to read: allowed: {allowed}"
                )
            return found
        if not _is_glob(root, name):
            return [path]
        found = _glob(root, name)
        if not found:
            raise ArtifactError(f"no file matches {path}: check 'files' in the pipeline file")
        return found


def _is_glob(root: Path, name: str) -> bool:
    return glob.has_magic(name) and not (root / name).exists()


def _glob(root: Path, pattern: str) -> list[Path]:
    # Dangling links stay: a file that is gone must be an error, not a smaller corpus.
    names = glob.glob(pattern, root_dir=root, recursive=True)
    return sorted((root / x for x in names if not (root / x).is_dir()), key=Path.as_posix)
