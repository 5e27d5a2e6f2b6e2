"""Where an answer stands, from logits of its start and its end: the best span of all windows.

Legend: Q questions, W windows, N tokens of all windows together, S tokens where a span may start.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdpipe.windows import Ints, Windows

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spans:
    """One span for each question."""

    characters: Ints
    """[Q, 2]: first character of the context and the one after the last; 0, 0 where no window has
    anything of the context."""
    probabilities: Floats
    """[Q]: of its start times that of its end, among all tokens of its window, those of the
    question and the special ones included; 0 where there is no span."""


def best_spans(
    windows: Windows,
    logits: npt.NDArray[np.floating],
    *,
    n_best_size: int,
    max_answer_length: int,
) -> Spans:
    """The spans of the context with the highest sums of logits, over all windows of each question.

    Of equal ones the first that begins is taken, and of these the shortest.

    Args:
        windows: W windows of Q questions, at least one.
        logits: [N, 2], of the start and of the end, finite.
        n_best_size: A span starts at one of so many best starts of the context in its window, and
            ends at one of so many best ends; equal ones all count.
        max_answer_length: Tokens of a span, at most.
    """
    lengths, both = windows.rows.lengths, logits.T.astype(np.float64)
    inside = windows.characters[:, 0] >= 0
    begins, ends = (_highest(np.where(inside, x, -np.inf), lengths, n_best_size) for x in both)
    starts = np.flatnonzero(np.isfinite(begins))
    lasts, sums = _ends(starts, begins, ends, lengths, max_answer_length)
    possible = np.isfinite(sums)
    starts, lasts, sums = starts[possible], lasts[possible], sums[possible]
    window = np.repeat(np.arange(len(lengths)), lengths)[starts]
    ordered = np.lexsort((starts, -sums, windows.question_of[window]))
    number = int(windows.question_of[-1]) + 1
    spans = Spans(np.zeros((number, 2), np.int64), np.zeros(number))
    found, first = np.unique(windows.question_of[window][ordered], return_index=True)
    best = ordered[first]
    spans.characters[found, 0] = windows.characters[starts[best], 0]
    spans.characters[found, 1] = windows.characters[lasts[best], 1]
    # [2, W]: the logarithm of the sum that a softmax divides by.
    whole = np.logaddexp.reduceat(both, np.cumsum(lengths) - lengths, axis=1)
    spans.probabilities[found] = np.exp(sums[best] - whole.sum(0)[window[best]])
    return spans


def _ends(
    starts: Ints, begins: Floats, ends: Floats, lengths: Ints, longest: int
) -> tuple[Ints, Floats]:
    """The last token of the best span from each start, and its sum; -inf where there is none."""
    after = np.repeat(np.cumsum(lengths), lengths)[starts]
    lasts, sums = starts.copy(), np.full(len(starts), -np.inf)
    for length in range(min(longest, int(lengths.max()))):
        places = np.minimum(starts + length, len(ends) - 1)
        there = begins[starts] + np.where(starts + length < after, ends[places], -np.inf)
        better = there > sums
        lasts[better], sums[better] = places[better], there[better]
    return lasts, sums


def _highest(values: Floats, lengths: Ints, count: int) -> Floats:
    """[N]: the `count` highest values of each window, and what equals them; -inf elsewhere."""
    longest = int(lengths.max())
    if count >= longest:
        return values
    table = np.full((len(lengths), longest), -np.inf)
    table[np.arange(longest) < lengths[:, None]] = values
    lowest = np.partition(table, longest - count, axis=1)[:, longest - count]
    return np.where(values >= np.repeat(lowest, lengths), values, -np.inf)
