"""Text in local files: each format by its suffix, rows by their columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from kdpipe.sources.columns import Columns, text_of
from kdpipe.sources.formats import READERS, bare_lines, read_txt, suffix_of
from kdpipe.sources.paths import NamedFiles
from kdpipe.sources.row import Row


class Files(Columns, NamedFiles):
    """Tables and plain text."""

    known = READERS
    kind: Literal["files"]

    def rows_of(self, path: Path) -> Iterator[Row]:
        """Rows of one file; lines of plain text have no columns."""
        reader = READERS[suffix_of(path)]
        if reader is read_txt and not self.split_words:
            # Without a record for each they are read twice as fast, and most text is lines.
            for number, line in bare_lines(path):
                text = text_of(line, "text", f"{path}:{number}")
                if text is not None:
                    yield Row(text)
            return
        columns = Columns(split_words=True) if reader is read_txt else self
        for where, record in reader(path, columns):
            yield from columns.convert(record, where)
