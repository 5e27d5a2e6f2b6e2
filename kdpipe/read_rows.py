"""Rows of text as token ids: one text, a pair, words, or a question in windows.

Legend: R rows as they are read, of which a question may give several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdpipe.errors import UsageError
from kdpipe.sources.row import Row, Span
from kdpipe.tokenizer import Encoded, Tokenizer
from kdpipe.windows import read_windows


@dataclass(frozen=True)
class Read:
    """What became of some rows."""

    encoded: Encoded
    """R rows."""
    row_of: Sequence[int]
    """[R]: which of the given rows each one is of."""
    labels: Sequence[Any]
    """[R]: as they were given; of a span its first and last token."""
    cut: int
    """Rows that were longer than the limit, or just as long; windows lose nothing."""


def read_rows(tokenizer: Tokenizer, rows: Sequence[Row], max_seq_length: int, prompt: str) -> Read:
    """Rows of one kind, with a prompt before each, cut to `max_seq_length`.

    Raises:
        UsageError: the `doc_stride` of questions leaves no room in a window, or a tokenizer of
            words is to read questions.
    """
    rows = as_words(tokenizer, rows)
    stride = rows[0].doc_stride if rows else None
    if stride is not None:
        return _questions(tokenizer, rows, max_seq_length, prompt, stride)
    words = [row.words for row in rows if row.words is not None]
    if words:
        encoded = tokenizer.encode_words(words, max_seq_length, prompt)
    else:
        texts = [
            f"{prompt}{row.text}"
            if row.text_pair is None
            else (f"{prompt}{row.text}", row.text_pair)
            for row in rows
        ]
        encoded = tokenizer.encode(texts, max_seq_length)
    cut = int((encoded.lengths >= max_seq_length).sum())
    return Read(encoded, range(len(rows)), [row.label for row in rows], cut)


def as_words(tokenizer: Tokenizer, rows: Sequence[Row]) -> list[Row]:
    """The same rows, or, where tokens are words, rows of words; a pair has [SEP] between its texts.

    Raises:
        UsageError: questions, whose windows are cut by tokens of another kind.
    """
    return [_as_words(tokenizer, row) for row in rows] if tokenizer.by_words else [*rows]


def _as_words(tokenizer: Tokenizer, row: Row) -> Row:
    if row.doc_stride is not None:
        raise UsageError(
            "questions are read in windows of a model's own tokens: use the teacher's tokenizer"
        )
    if row.words is not None:
        return row
    words = tokenizer.words_of(row.text)
    if row.text_pair is not None:
        words += (tokenizer.special["sep_token"], *tokenizer.words_of(row.text_pair))
    return row._replace(words=words, text_pair=None)


def _questions(
    tokenizer: Tokenizer, rows: Sequence[Row], max_seq_length: int, prompt: str, stride: int
) -> Read:
    pairs = [(f"{prompt}{row.text}", row.text_pair or "") for row in rows]
    windows = read_windows(tokenizer, pairs, max_seq_length, stride)
    answers = [row.label if isinstance(row.label, Span) else None for row in rows]
    return Read(windows.rows, windows.question_of.tolist(), windows.labels(answers), 0)
