"""Text in local files: which files a pipeline names, and the rows that they hold."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from kdpipe import io
from kdpipe.errors import ArtifactError
from kdpipe.sources.columns import Columns, Text
from kdpipe.sources.formats import READERS, Reader, damage_named, read_txt, reader_of, suffix_of
from kdpipe.sources.row import Row


class Files(Columns):
    """Local files, folders and globs."""

    kind: Literal["files"]
    files: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Files, folders (all that can be read in them, at any depth) and globs (`**`: any depth)."""

    def rows(self, root: Path) -> Iterator[Row]:
        """Rows of all files, folders and globs in sorted order, each file once.

        Raises UsageError for a file of no known format, and ArtifactError naming file and line for
        what is missing, empty, damaged, not UTF-8 or of the wrong type.
        """
        for path, reader in self._readers(root).items():
            yield from self._rows(path, reader)

    def paths(self, root: Path) -> list[str]:
        """What this source reads, relative to `root`: files, folders, and the matches of globs.

        Raises ArtifactError for a glob that matches nothing.
        """
        found: list[Path] = []
        for name in self.files:
            found += _expand(root, name) if _is_glob(root, name) else [root / name]
        return sorted({Path(os.path.relpath(path, root)).as_posix() for path in found})

    def state(self, root: Path) -> str:
        """What the text depends on: the bytes of the files, their formats and their order."""
        files = self._readers(root)
        return io.identity([[suffix_of(file), io.digest_file(file)] for file in files])

    def _readers(self, root: Path) -> dict[Path, Reader]:
        """All files, each once and in order, and how to read them."""
        readers: dict[Path, Reader] = {}
        for path in (path for name in self.files for path in _expand(root, name)):
            if not path.is_file():
                raise ArtifactError(f"{path} does not exist: check 'files' in the pipeline file")
            readers[path] = reader_of(path)
        return readers

    def _rows(self, path: Path, reader: Reader) -> Iterator[Row]:
        columns = Columns() if reader is read_txt else self
        found = False
        with damage_named(path):
            for where, record in reader(path, columns) if path.stat().st_size else ():
                for row in columns.convert(record, where):
                    found = True
                    yield row
        if not found:
            remedy = "mend it, or take it out of 'files'"
            raise ArtifactError(f"{path} is empty: no row has text; {remedy}")


def _is_glob(root: Path, name: str) -> bool:
    return glob.has_magic(name) and not (root / name).exists()


def _expand(root: Path, name: str) -> list[Path]:
    """The files that one entry of `files` means."""
    path = root / name
    if path.is_dir():
        found = [file for file in _glob(path, "**") if suffix_of(file) in READERS]
        if not found:
            allowed = ", ".join(READERS)
            raise ArtifactError(f"{path} is a folder without a file to read: allowed: {allowed}")
        return found
    if not _is_glob(root, name):
        return [path]
    found = _glob(root, name)
    if not found:
        raise ArtifactError(f"no file matches {path}: check 'files' in the pipeline file")
    return found


def _glob(root: Path, pattern: str) -> list[Path]:
    # Dangling links stay: a file that is gone must be an error, not a smaller corpus.
    names = glob.glob(pattern, root_dir=root, recursive=True)
    return sorted((root / x for x in names if not (root / x).is_dir()), key=Path.as_posix)
