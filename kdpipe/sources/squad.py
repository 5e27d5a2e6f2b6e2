"""Questions about texts, with answers that stand in them: SQuAD v1.1, as JSON or as a table.

`.json` is as it was published; `.jsonl`, `.parquet` and `.arrow` have the columns `id`, `question`,
`context` and `answers`, with `text` and `answer_start` of each or in two lists. Where nobody has
answered there may be no `answers`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import NonNegativeInt

from kdpipe.config import nearest
from kdpipe.errors import ArtifactError
from kdpipe.sources.columns import Columns, text_of
from kdpipe.sources.formats import COMPRESSED, READERS, Record, first_line, opened, suffix_of
from kdpipe.sources.paths import NamedFiles
from kdpipe.sources.row import Row, Span

_JSON = (".json", *(f".json{codec}" for codec in COMPRESSED))
_TABLES = tuple(suffix for suffix in READERS if not suffix.startswith((".txt", ".csv", ".tsv")))


class _Columns(Columns):
    optional = frozenset({"answers"})


_COLUMNS = _Columns(text_column=("id", "question", "context"), label_column="answers")


class Answer(NamedTuple):
    """What one person said."""

    text: str
    answer_start: int
    """Where it begins in the context, in characters."""


class Question(NamedTuple):
    """A question, and what people answered."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]


class Squad(NamedFiles):
    """Extractive question answering: each row is a window over the context of a question."""

    known = (*_JSON, *_TABLES)
    kind: Literal["squad"]
    doc_stride: NonNegativeInt = 128
    """Tokens of a context that a window shares with the one before it."""

    def rows_of(self, path: Path) -> Iterator[Row]:
        """The questions of one file, labelled with the first of their answers."""
        for one in _questions(path):
            spans = [Span(begin, begin + len(text)) for text, begin in one.answers]
            yield Row(one.question, one.context, next(iter(spans), None), None, self.doc_stride)

    def questions(self, root: Path) -> Iterator[Question]:
        """What `rows` are made of, with all answers; raises as `rows` does."""
        return self.read(root, _questions)


def _questions(path: Path) -> Iterator[Question]:
    """All questions of a file, but those that are blank or about blank text."""
    suffix = suffix_of(path)
    read = _published if suffix in _JSON else READERS[suffix]
    for where, record in read(path, _COLUMNS):
        for column in _COLUMNS.text_columns:
            if column not in record:
                raise ArtifactError(f"{where}: no {column!r}: {nearest(column, [*record])}")
        question, context = (text_of(record[key], key, where) for key in ("question", "context"))
        if question is not None and context is not None:
            answers = _answers(record.get("answers"), context, where)
            yield Question(str(record["id"]), question, context, tuple(answers))


def _published(path: Path, columns: Columns) -> Iterator[Record]:
    with opened(path) as file:
        try:
            whole = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or first_line(error)
            raise ArtifactError(f"{path}: not valid JSON ({reason}): mend the file") from None
    for where, article in _each(whole, "data", str(path)):
        for place, paragraph in _each(article, "paragraphs", where):
            for spot, question in _each(paragraph, "qas", place):
                yield spot, {"answers": None, **paragraph, **question}


def _each(record: Any, key: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in a list of an object, and where they stand."""
    values = record.get(key) if isinstance(record, dict) else None
    if not isinstance(values, list):
        raise ArtifactError(f"{where}: no list {key!r}: mend it, or is it not SQuAD v1.1?")
    for number, value in enumerate(values):
        place = f"{where}{',' if ': ' in where else ':'} {key} {number}"
        if not isinstance(value, dict):
            raise ArtifactError(f"{place} is no object: mend it, or is it not SQuAD v1.1?")
        yield place, value


def _answers(found: Any, context: str, where: str) -> Iterator[Answer]:
    for text, begin in _pairs(found, where):
        if not isinstance(text, str) or not isinstance(begin, int) or not text.strip():
            raise ArtifactError(f"{where}: an answer needs 'text' and 'answer_start': mend it")
        if begin < 0 or not context.startswith(text, begin):
            raise ArtifactError(
                f"{where}: the answer {text[:40]!r} does not begin at character {begin} of the"
                " context: mend its answer_start"
            )
        yield Answer(text, begin)


def _pairs(found: Any, where: str) -> list[tuple[Any, Any]]:
    """Texts and where they begin, from an object of two lists or a list of objects."""
    if isinstance(found, dict):
        texts, starts = found.get("text"), found.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            return [*zip(texts, starts, strict=True)]
    elif found is None:
        return []
    elif isinstance(found, list) and all(isinstance(one, dict) for one in found):
        return [(one.get("text"), one.get("answer_start")) for one in found]
    raise ArtifactError(f"{where}: 'answers' has no lists of 'text' and 'answer_start': mend it")
