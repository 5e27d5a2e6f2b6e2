"""Questions about texts that may be long: each is read in windows that overlap.

Legend: Q questions, W windows, N tokens of all windows together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdpipe.errors import UsageError
from kdpipe.sources.row import Span
from kdpipe.tokenizer import Encoded, Tokenizer

LONGEST_QUESTION = 64
"""Tokens that a question keeps, at most half of a window."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """Rows of special tokens, a question, and a part of its context."""

    rows: Encoded
    """W rows."""
    question_of: Ints
    """[W]: the question that each window is of; those of one question follow each other."""
    characters: Ints
    """[N, 2]: first character of the context that a token covers, and the one after the last; -1
    for the tokens that are not of the context."""
    extents: Ints
    """[W, 2]: the characters of the context that a window has, up to the tokens it has not."""

    def labels(self, answers: Sequence[Span | None]) -> list[tuple[int, int] | None]:
        """First and last token of each question's answer, for each window.

        (0, 0), which is the token that stands for the row, where the answer is not wholly in the
        window or the tokenizer leaves nothing of it; None where a question has no answer.
        """
        ends = np.cumsum(self.rows.lengths)
        labels: list[tuple[int, int] | None] = []
        for window, question in enumerate(self.question_of.tolist()):
            answer, end = answers[question], ends[window]
            here = self.characters[end - self.rows.lengths[window] : end]
            begin, after = self.extents[window]
            if answer is None:
                labels.append(None)
            elif begin <= answer.begin and answer.end <= after:
                labels.append(_tokens(here, answer))
            else:
                labels.append((0, 0))
        return labels


class _Window(NamedTuple):
    ids: Ints
    second_at: int
    characters: Ints
    extent: tuple[int, int]


def read_windows(
    tokenizer: Tokenizer,
    questions: Sequence[tuple[str, str]],
    max_seq_length: int,
    doc_stride: int,
) -> Windows:
    """Windows of at most `max_seq_length` tokens over the context of each (question, context).

    The first begins with the context, every other one shares `doc_stride` tokens of the context
    with the one before it, and the last ends with the context. Of a question the first
    LONGEST_QUESTION tokens are kept.

    Raises:
        UsageError: `doc_stride` leaves no room to go on.
    """
    longest = min(LONGEST_QUESTION, max_seq_length // 2)
    (bare,) = tokenizer.encodings([("", "")])
    room = max_seq_length - longest - len(bare.ids)
    if doc_stride >= room:
        raise UsageError(
            f"doc_stride is {doc_stride}, but windows of {max_seq_length} tokens have room for"
            f" {room} of the context beside a question: lower it, or raise max_seq_length"
        )
    # Not by the backend's own truncation, which gives some windows wrong token types.
    encodings = tokenizer.encodings(questions)
    found = [[*_cut(row, longest, max_seq_length, doc_stride)] for row in encodings]
    windows = [window for some in found for window in some]
    rows = Encoded(
        _joined([window.ids for window in windows]),
        np.array([len(window.ids) for window in windows], np.int64),
        np.array([window.second_at for window in windows], np.int64),
    )
    return Windows(
        rows=rows,
        question_of=np.repeat(np.arange(len(found)), [len(some) for some in found]),
        characters=_joined([window.characters for window in windows]).reshape(-1, 2),
        extents=np.array([window.extent for window in windows], np.int64).reshape(-1, 2),
    )


def _cut(encoding: Any, longest: int, limit: int, stride: int) -> Iterator[_Window]:
    sides = np.array([-1 if side is None else side for side in encoding.sequence_ids], np.int64)
    dropped = np.flatnonzero(sides == 0)[longest:]
    sides, ids, types, characters = (
        np.delete(np.asarray(values, np.int64), dropped, axis=0)
        for values in (sides, encoding.ids, encoding.type_ids, encoding.offsets)
    )
    characters[sides != 1] = -1
    context = np.flatnonzero(sides == 1)
    begins, ends = (context[0], context[-1] + 1) if len(context) else (len(ids), len(ids))
    before, after = np.arange(begins), np.arange(ends, len(ids))
    room, start, last = limit - len(before) - len(after), 0, len(context)
    while True:
        end = min(start + room, last)
        taken = np.concatenate([before, context[start:end], after])
        second = np.append(np.flatnonzero(types[taken] == 1), len(taken))
        extent = (
            int(characters[context[start - 1], 1]) if start else 0,
            int(characters[context[end], 0]) if end < last else np.iinfo(np.int64).max,
        )
        yield _Window(ids[taken], int(second[0]), characters[taken], extent)
        if end == last:
            return
        start += room - stride


def _tokens(characters: Ints, answer: Span) -> tuple[int, int]:
    """First and last token that cover characters of the answer."""
    inside = characters[:, 0] >= 0
    covered = inside & (characters[:, 1] > answer.begin) & (characters[:, 0] < answer.end)
    found = np.flatnonzero(covered)
    return (int(found[0]), int(found[-1])) if len(found) else (0, 0)


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
