"""How good answers to questions are: the rules of SQuAD v1.1 (arXiv 1606.05250, section 6.1).

Several people answered each question; a prediction is held against the answer that suits it best.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:an?|the)\b")


def normalise_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, then without a, an, the, single blanks between words.

    Punctuation leaves no blank: `well-known` is one word, and so is `the-end`.
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(predicted: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """Share of the questions whose prediction is one of their answers, both normalised."""
    return _mean(lambda text, answer: float(text == answer), predicted, answers)


def answer_f1(predicted: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """F1 of the words that prediction and answer share, mean over the questions.

    Words count as often as they occur. As in the official script nothing is shared with an answer
    that has no words left (`The`), even where the prediction equals it.
    """
    return _mean(_overlap, predicted, answers)


def _mean(
    score: Callable[[str, str], float], predicted: Sequence[str], answers: Sequence[Sequence[str]]
) -> float:
    """Mean over the questions of the score by the best answer; 0.0 without questions."""
    assert len(predicted) == len(answers), (len(predicted), len(answers))
    total = 0.0
    for number, (text, known) in enumerate(zip(predicted, answers, strict=True)):
        # A string is a sequence of strings, too: its letters would pass for answers.
        assert known and not isinstance(known, str), f"question {number}: {known!r}"
        said = normalise_answer(text)
        total += max(score(said, normalise_answer(answer)) for answer in known)
    return total / max(len(predicted), 1)


def _overlap(text: str, answer: str) -> float:
    mine, theirs = Counter(text.split()), Counter(answer.split())
    return 2 * (mine & theirs).total() / max(mine.total() + theirs.total(), 1)
