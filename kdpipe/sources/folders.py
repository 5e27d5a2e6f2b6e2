"""Text in folders that are called by their label: each file is one text (IMDB)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from kdpipe import io
from kdpipe.errors import ArtifactError
from kdpipe.sources.columns import MAX_TEXT
from kdpipe.sources.formats import COMPRESSED, damage_named, opened, suffix_of
from kdpipe.sources.paths import NamedFiles
from kdpipe.sources.row import Row


class Folders(NamedFiles):
    """Plain text, a file for each: its label is the name of the folder that it lies in."""

    known = (".txt", *(f".txt{codec}" for codec in COMPRESSED))
    kind: Literal["folders"]

    def rows(self, root: Path) -> Iterator[Row]:
        """A row of each file, but for those without text; raises as those of other files do."""
        for path in self.found(root):
            yield from self.rows_of(path)

    def rows_of(self, path: Path) -> Iterator[Row]:
        """The text of one file, with its lines, and its label."""
        # An empty file is no damaged archive.
        with damage_named(path):
            data = b""
            if path.stat().st_size:
                with opened(path) as file:
                    data = file.read(MAX_TEXT + 1)
        if len(data) > MAX_TEXT:
            raise ArtifactError(f"{path}: a text has at most {MAX_TEXT} bytes: cut it up")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            wrong = f"byte 0x{data[error.start]:02x} is not UTF-8"
            raise ArtifactError(f"{path}: {wrong}: convert the file") from None
        if text.strip():
            # A file ends with its last line, a text does not.
            text = text.removesuffix("\n").removesuffix("\r")
            yield Row(text, None, _label(path))

    def state(self, root: Path) -> str:
        """What the text depends on: the bytes of the files, and the folders that they lie in."""
        return io.identity(
            [[suffix_of(file), _label(file), io.digest_file(file)] for file in self.found(root)]
        )


def _label(path: Path) -> str:
    return path.absolute().parent.name
