"""Sentences in files of columns, a word a line and a blank line between sentences (CoNLL)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import NonNegativeInt

from kdpipe.errors import ArtifactError
from kdpipe.progress import counted
from kdpipe.sources.columns import MAX_TEXT, Text
from kdpipe.sources.formats import COMPRESSED, numbered
from kdpipe.sources.paths import NamedFiles
from kdpipe.sources.row import Row

_KINDS = (".conll", ".conllu", ".iob", ".iob2", ".bio", ".tsv", ".txt")
_BLANKS = re.compile(r"[ \t]+")
_NO_WORD = re.compile(r"\d+[-.]\d+", re.ASCII)


class _Word(NamedTuple):
    number: int
    """Of its line."""
    fields: list[str]
    word: str


class Conll(NamedFiles):
    """Tagged words: CoNLL-2003, CoNLL-U and files like them, in UTF-8."""

    known = tuple(kind + codec for kind in _KINDS for codec in ("", *COMPRESSED))
    only_known = False
    kind: Literal["conll"]
    word_column: NonNegativeInt = 0
    """Which column has the words; 0 is the first, and 1 that of CoNLL-U."""
    label_column: int | None = -1
    """Which column has the tags; -1 is the last, and None leaves the sentences without."""
    ignore_token: Text | None = "-DOCSTART-"
    """Lines with this word are left out; None leaves none out."""

    def rows_of(self, path: Path) -> Iterator[Row]:
        """The sentences of one file; raises ArtifactError naming the line that is wrong."""
        sentence: list[_Word] = []
        size = 0
        for number, line in self._lines(path):
            if line is not None:
                word = self._word(path, number, line, sentence)
                size += len(word.word.encode()) + 1
                if size > MAX_TEXT:
                    limit = f"a sentence of more than {MAX_TEXT} bytes"
                    raise ArtifactError(f"{path}:{number}: {limit}: put blank lines between them")
                sentence.append(word)
            else:
                yield from self._sentence(sentence)
                sentence, size = [], 0
        yield from self._sentence(sentence)

    def _lines(self, path: Path) -> Iterator[tuple[int, list[str] | None]]:
        """Lines of words as their fields, None where a sentence ends; no others."""
        tabs, columns = self._shape(path)
        in_sentence = False
        for number, line in numbered(path):
            fields = _fields(line, tabs)
            if not line.strip():
                in_sentence = False
                yield number, None
            elif self._is_left_out(fields):
                continue
            elif in_sentence or not line.startswith("#") or len(fields) == columns:
                in_sentence = True
                yield number, fields

    def _shape(self, path: Path) -> tuple[bool, int]:
        """Whether tabs separate the columns of a file, and how many columns it has."""
        for _, line in numbered(path):
            fields = _fields(line, "\t" in line)
            if line.strip() and not line.startswith("#") and not self._is_left_out(fields):
                return "\t" in line, len(fields)
        return False, 0

    def _is_left_out(self, fields: list[str]) -> bool:
        if self.ignore_token is not None and self.ignore_token in fields[: self.word_column + 1]:
            return True
        # Ranges of words (3-4) and words that are not said (8.1) beside the words of CoNLL-U.
        return self.word_column == 1 and _NO_WORD.fullmatch(fields[0]) is not None

    def _word(self, path: Path, number: int, fields: list[str], sentence: list[_Word]) -> _Word:
        where = f"{path}:{number}"
        if not sentence:
            self._check(where, len(fields))
        elif len(sentence[0].fields) != len(fields):
            line, before = sentence[0].number, len(sentence[0].fields)
            raise ArtifactError(
                f"{where}: {counted(len(fields), 'column')}, but line {line} of its sentence has"
                f" {before}: mend the line, or put a blank line between sentences"
            )
        for name, column in (("word", self.word_column), ("label", self.label_column)):
            if column is not None and not fields[column]:
                raise ArtifactError(f"{where}: the {name} in column {column} is empty: mend it")
        return _Word(number, fields, fields[self.word_column])

    def _check(self, where: str, columns: int) -> None:
        """Refuse columns that are not there; raises ArtifactError."""
        label = self.label_column
        if self.word_column >= columns:
            raise ArtifactError(
                f"{where}: {counted(columns, 'column')}, none is word_column {self.word_column}:"
                " the first is 0; mend the line, or choose another"
            )
        if label is not None and not -columns <= label < columns:
            raise ArtifactError(
                f"{where}: {counted(columns, 'column')}, none is label_column {label}: the first is"
                " 0 and the last -1; mend the line, choose another, or null for files without"
                " labels"
            )
        if label is not None and label % columns == self.word_column:
            raise ArtifactError(
                f"{where}: column {self.word_column} would be both word and label: mend the line,"
                " choose another column, or label_column: null for files without labels"
            )

    def _sentence(self, sentence: list[_Word]) -> Iterator[Row]:
        words = tuple(word.word for word in sentence)
        text = " ".join(words)
        column = self.label_column
        label = None if column is None else tuple(word.fields[column] for word in sentence)
        if text.strip():
            yield Row(text, None, label, words)


def _fields(line: str, tabs: bool) -> list[str]:
    # Other blanks, such as those that do not break, may be part of a word.
    if tabs:
        return [field.strip(" ") for field in line.rstrip("\r\n").split("\t")]
    return _BLANKS.split(line.strip(" \t\r\n"))
