"""The best span of all windows, against all spans tried one after the other."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers.processors import TemplateProcessing

from kdpipe.spans import best_spans
from kdpipe.windows import Windows, read_windows
from tests.tiny import SENTENCES, tiny_tokenizer

Logits = npt.NDArray[np.float32]
CONTEXT = " ".join(SENTENCES[:8])
PAIRS = [
    ("The cat sleeps?", CONTEXT),
    ("What waits at the old green door of the house?", SENTENCES[2]),
    ("Who?", "\u200b"),
    ("", CONTEXT.upper()),
    ("Is it?", "  na\u00efve \U0001f600 dogs  "),
    ("Who?", ""),
]


class Best(NamedTuple):
    begin: int
    end: int
    probability: float


def cut(windows: Windows, values: npt.NDArray[np.generic]) -> list[npt.NDArray[np.generic]]:
    """The part of each window."""
    return np.split(values, windows.rows.lengths.cumsum()[:-1])


def tried(windows: Windows, logits: Logits, size: int, longest: int) -> list[Best]:
    """All spans of each question, in the order in which they begin."""
    found: dict[int, tuple[float, Best]] = {}
    parts = zip(cut(windows, logits), cut(windows, windows.characters), strict=True)
    for question, (said, places) in zip(windows.question_of.tolist(), parts, strict=True):
        found.setdefault(question, (-math.inf, Best(0, 0, 0.0)))
        inside = [place for place in range(len(said)) if places[place, 0] >= 0]
        start, end = (
            {n: float(said[n, side]) for n in inside if rank(said, inside, n, side) < size}
            for side in (0, 1)
        )
        whole = [sum(math.exp(x) for x in said[:, side].tolist()) for side in (0, 1)]
        for first in start:
            for last in range(first, first + longest):
                score = start[first] + end.get(last, -math.inf)
                if score > found[question][0]:
                    chance = math.exp(start[first]) / whole[0] * math.exp(end[last]) / whole[1]
                    best = Best(int(places[first, 0]), int(places[last, 1]), chance)
                    found[question] = (score, best)
    return [best for _, best in found.values()]


def rank(said: npt.NDArray[np.generic], inside: list[int], place: int, side: int) -> int:
    """How many tokens of the context in this window are better."""
    return sum(bool(said[other, side] > said[place, side]) for other in inside)


@pytest.mark.parametrize(("limit", "stride"), [(24, 0), (24, 3), (32, 12), (400, 8)])
@pytest.mark.parametrize(("size", "longest"), [(20, 30), (1, 30), (3, 4), (1000, 1000), (5, 1)])
def test_the_best_span_is_the_best_of_all(limit: int, stride: int, size: int, longest: int) -> None:
    windows = read_windows(tiny_tokenizer(), PAIRS, limit, stride)
    drawn = np.random.default_rng(limit * size + longest)
    tokens = len(windows.rows.ids)
    real = drawn.normal(0.0, 3.0, (tokens, 2))
    # Few different numbers: many spans are equally good, and many starts share a place.
    equal = drawn.integers(-2, 3, (tokens, 2))
    for values in (real, equal):
        logits = values.astype(np.float32)
        found = best_spans(windows, logits, n_best_size=size, max_answer_length=longest)
        wanted = tried(windows, logits, size, longest)
        assert found.characters.tolist() == [[one.begin, one.end] for one in wanted]
        chances = [one.probability for one in wanted]
        assert found.probabilities == pytest.approx(chances, rel=1e-9, abs=0.0)
        assert found.characters[[2, 5]].tolist() == [[0, 0], [0, 0]]
        assert found.probabilities[[2, 5]].tolist() == [0.0, 0.0]


def test_no_span_goes_from_one_window_into_the_next() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
    windows = read_windows(tokenizer, [("", CONTEXT), ("", SENTENCES[2])], 8, 0)
    # There is nothing between the windows.
    assert (windows.characters >= 0).all()
    logits = np.zeros((len(windows.rows.ids), 2), np.float32)
    logits[7] = [5.0, 0.0]
    logits[8] = [0.0, 5.0]
    found = best_spans(windows, logits, n_best_size=20, max_answer_length=30)
    wanted = tried(windows, logits, 20, 8)
    assert found.characters.tolist() == [[one.begin, one.end] for one in wanted]
    assert CONTEXT[slice(*found.characters[0])] in {".", "A"}


def test_where_starts_and_ends_may_be() -> None:
    # [CLS] is it ? [SEP] the dog waits at the green door . [SEP]
    windows = read_windows(tiny_tokenizer(), [("Is it?", SENTENCES[2])], 64, 1)
    tokens = [SENTENCES[2][b:e] for b, e in windows.characters.tolist() if b >= 0]
    assert tokens == ["The", "dog", "waits", "at", "the", "green", "door", "."]

    def answer(starts: dict[int, float], ends: dict[int, float], size: int, longest: int) -> str:
        logits = np.zeros((14, 2), np.float32)
        for side, values in enumerate((starts, ends)):
            logits[[*values], side] = [*values.values()]
        found = best_spans(windows, logits, n_best_size=size, max_answer_length=longest)
        ((begin, end),) = found.characters.tolist()
        return SENTENCES[2][begin:end]

    assert answer({6: 2.0}, {7: 2.0}, 20, 30) == "dog waits"
    assert (
        answer({0: 9.0, 1: 9.0, 4: 9.0, 6: 2.0}, {13: 9.0, 2: 9.0, 7: 2.0}, 20, 30) == "dog waits"
    )
    assert answer({7: 2.0, 5: 1.0}, {6: 2.0}, 20, 30) == "The dog"
    assert answer({7: 2.0, 5: 1.0}, {6: 2.0}, 20, 1) == "dog"
    assert answer({5: 2.0}, {11: 2.0}, 20, 7) == SENTENCES[2][:-1]
    assert answer({5: 2.0}, {11: 2.0}, 20, 6) == "The"
    assert answer({8: 9.0, 6: 1.0}, {6: 9.0, 8: 1.0}, 1, 30) == ""
    assert answer({8: 9.0, 6: 1.0}, {6: 9.0, 8: 1.0}, 2, 30) == "dog"


def test_the_best_window_wins_and_gives_the_probability() -> None:
    context = " ".join(SENTENCES[:5])
    windows = read_windows(tiny_tokenizer(), [("Is it?", context), ("Who?", "A fox.")], 24, 4)
    # 6 of a window are the question and special tokens: 39 of the context take 3 times 18.
    assert windows.question_of.tolist() == [0, 0, 0, 1]
    logits = np.zeros((len(windows.rows.ids), 2), np.float32)
    firsts = windows.rows.lengths.cumsum() - windows.rows.lengths
    logits[firsts] = 50.0
    logits[firsts[0] + 6] = [3.0, 3.0]
    logits[firsts[2] + 6] = [3.5, 3.0]
    logits[firsts[2]] = [1.0, -20.0]
    found = best_spans(windows, logits, n_best_size=20, max_answer_length=30)
    begin, end = windows.characters[firsts[2] + 6]
    assert found.characters[0].tolist() == [begin, end]
    others = windows.rows.lengths[2] - 2
    start = math.exp(3.5) / (math.exp(3.5) + math.exp(1.0) + others)
    last = math.exp(3.0) / (math.exp(3.0) + math.exp(-20.0) + others)
    assert found.probabilities[0] == pytest.approx(start * last, rel=1e-9)
    assert found.probabilities[1] == pytest.approx(math.exp(-100.0), rel=1e-9)
