"""Answers by the published rules of SQuAD v1.1, spelled out letter by letter here."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdpipe import metrics

TEXTS = st.lists(
    st.one_of(
        st.sampled_from(["The", "a", "an", "AN", "mill", "Mill,", "the-mill", "(a)", "I'm"]),
        st.sampled_from([" ", "  ", "\t", "\u00a0", "\u2013", "\u00e9", "_", "3.5", "the_", "..."]),
        st.text(max_size=4),
    ),
    max_size=6,
).map("".join) | st.lists(st.sampled_from(["the", "Mill", "mill.", "an", "ox", "ox"])).map(" ".join)
QUESTIONS = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1)


def words(text: str) -> list[str]:
    """Lower case without punctuation; articles are whole words, which other signs end, too."""
    kept = [letter for letter in text.lower() if letter not in string.punctuation]
    spoken, run = "", ""
    for letter in [*kept, " "]:
        if letter.isalnum() or letter == "_":
            run += letter
            continue
        spoken += ("" if run in {"a", "an", "the"} else run) + letter
        # An article leaves a blank, so that its neighbours do not grow together.
        spoken = spoken if run not in {"a", "an", "the"} else spoken[:-1] + " " + letter
        run = ""
    return spoken.split()


def overlap(mine: list[str], theirs: list[str]) -> float:
    left, same = [*theirs], 0
    for word in mine:
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0.0
    precision, recall = same / len(mine), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


@settings(deadline=None)
@given(QUESTIONS)
def test_scores_by_the_rules(questions: list[tuple[str, list[str]]]) -> None:
    predicted, answers = [one[0] for one in questions], [one[1] for one in questions]
    for text in predicted:
        assert metrics.normalise_answer(text) == " ".join(words(text))
    exact = [any(words(text) == words(one) for one in known) for text, known in questions]
    f1 = [max(overlap(words(text), words(one)) for one in known) for text, known in questions]
    assert metrics.exact_match(predicted, answers) == sum(exact) / len(exact)
    assert metrics.answer_f1(predicted, answers) == pytest.approx(sum(f1) / len(f1), abs=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Mill.", "mill"),
        ("an ox, a cart and THE road", "ox cart and road"),
        ("another theme", "another theme"),
        ("A", ""),
        ("", ""),
        ("?!", ""),
        ("well-known", "wellknown"),
        ("the-end", "theend"),
        ("the.", ""),
        ("U.S.A.", "usa"),
        ("a.m.", "am"),
        ("$3.50", "350"),
        ("the\u2013end", "\u2013end"),  # a dash that is not ASCII stays, and ends a word
        ("x the\u00a0y", "x y"),
        ("x\u2013the\u2013y", "x\u2013 \u2013y"),  # an article leaves a blank
        ("\u00c9t\u00e9 a", "\u00e9t\u00e9"),
        ("th'e mill", "mill"),  # punctuation goes before articles
        ("a a", ""),
        ("\n tab\tline\n", "tab line"),
    ],
)
def test_normalised_answers(text: str, expected: str) -> None:
    assert metrics.normalise_answer(text) == expected


def test_the_best_of_several_answers_counts() -> None:
    predicted = ["The old mill", "grain", "nothing"]
    answers = [["a mill", "old mill!", "the very old mill"], ["two sacks of grain"], ["a mill"]]
    assert metrics.exact_match(predicted, answers) == 1 / 3
    assert metrics.answer_f1(predicted, answers) == pytest.approx((1 + 2 / 5 + 0) / 3, abs=1e-15)


def test_words_count_as_often_as_they_occur() -> None:
    assert metrics.answer_f1(["mill mill mill"], [["mill"]]) == 2 * 1 / (3 + 1)
    assert metrics.answer_f1(["mill mill ox"], [["mill mill"]]) == 2 * 2 / (3 + 2)
    assert metrics.answer_f1(["ox mill"], [["mill ox"]]) == 1.0
    assert metrics.exact_match(["ox mill"], [["mill ox"]]) == 0.0


def test_answers_without_words() -> None:
    assert metrics.exact_match([""], [["The"]]) == 1.0
    assert metrics.answer_f1([""], [["The"]]) == 0.0
    assert metrics.answer_f1([""], [["mill"]]) == metrics.answer_f1(["mill"], [["a"]]) == 0.0
    assert metrics.exact_match([""], [["mill"]]) == 0.0


def test_no_questions_score_zero() -> None:
    assert metrics.exact_match([], []) == metrics.answer_f1([], []) == 0.0


@pytest.mark.parametrize("function", [metrics.exact_match, metrics.answer_f1])
@pytest.mark.parametrize(
    ("predicted", "answers"), [(["a"], []), (["a"], [[]]), (["mill"], ["mill"])]
)
def test_wrong_shapes_are_refused(function: Any, predicted: Any, answers: Any) -> None:
    with pytest.raises(AssertionError):
        function(predicted, answers)
