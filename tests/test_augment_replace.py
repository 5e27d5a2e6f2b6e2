"""Which words are replaced, by what, and that nothing else of a text changes."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from kdpipe.augment.replace import choose, replacements
from kdpipe.augment.side import Side
from kdpipe.augment.stop_words import STOP_WORDS


def words_at_places(text: str) -> list[str]:
    return [text[start:end] for start, end in Side(text).places()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat sleeps on the WARM stove.", ["cat", "sleeps", "WARM", "stove"]),
        ("Don't you think it's Anna's?", ["think", "Anna"]),
        ("a well-known 2nd place, 1990s, R2D2 and 7", ["well", "known", "place"]),
        (
            "snake_case (caf\u00e9) \u0434\u043e\u043c",
            ["snake", "case", "caf\u00e9", "\u0434\u043e\u043c"],
        ),
        ("cafe\u0301 ole", ["ole"]),
        ("I am, and so are YOU: he isn't!", []),
        ("", []),
    ],
)
def test_words_of_letters_that_are_no_stop_words(text: str, expected: list[str]) -> None:
    assert words_at_places(text) == expected


def test_stop_words() -> None:
    assert len(STOP_WORDS) == 145
    assert all(word.isalpha() and word == word.lower() for word in STOP_WORDS)
    assert {"i", "the", "not", "don", "t", "yourselves", "wouldn"} < STOP_WORDS
    assert not {"what", "would", "cat", "good"} & STOP_WORDS


def test_all_between_replaced_words_stays() -> None:
    text = "  The cat --\tsleeps,the  cat!\n"
    spans = [(6, 9), (13, 19), (25, 28)]
    assert [text[start:end] for start, end in spans] == ["cat", "sleeps", "cat"]
    made = Side(text).put({spans[2]: "dog", spans[0]: "elephant"})
    assert made == Side("  The elephant --\tsleeps,the  dog!\n")
    assert Side(text).put({}) == Side(text)


def test_words_given_one_by_one_stay_as_many() -> None:
    words = ("New York", "is", "", "big-", "big")
    side = Side(" ".join(words), words)
    assert side.text == "New York is  big- big"
    made = side.put({(0, 3): "Old", (4, 8): "X", (13, 16): "small"})
    assert made == Side("Old X is  small- big", ("Old X", "is", "", "small-", "big"))


def test_each_word_is_replaced_with_the_probability_by_any_of_its_candidates() -> None:
    candidates = {(0, 1): ["a", "b", "c", "d"], (2, 3): ["x"], (4, 5): ["y", "z"]}
    rng, draws = np.random.default_rng(0), 6000
    found = Counter(tuple(sorted(choose(candidates, 0.4, rng).items())) for _ in range(draws))
    parts = [
        [(None, 0.6), *((((span), word), 0.4 / len(words)) for word in words)]
        for span, words in candidates.items()
    ]
    total = 0.0
    for combination in itertools.product(*parts):
        chance = float(np.prod([part[1] for part in combination]))
        key = tuple(part[0] for part in combination if part[0] is not None)
        deviation = (draws * chance * (1 - chance)) ** 0.5
        assert abs(found.pop(key, 0) - draws * chance) < 5 * deviation
        total += chance
    assert total == pytest.approx(1.0)
    assert not found


def test_sure_and_impossible() -> None:
    candidates = {(0, 1): ["a"], (2, 3): ["x"]}
    rng = np.random.default_rng(0)
    assert choose(candidates, 1.0, rng) == {(0, 1): "a", (2, 3): "x"}
    assert choose(candidates, 0.0, rng) == {}


def test_a_candidate_takes_the_capital_of_its_word() -> None:
    side = Side("Paris lies near NASA and paris")
    candidates = {
        (0, 5): ["london"],
        (6, 10): ["Sits"],
        (16, 20): ["nasa"],
        (25, 30): ["Rome"],
        (11, 15): [],
    }
    made = next(replacements(side, candidates, 1.0, np.random.default_rng(0)))
    assert made.text == "London Sits near NASA and Rome"


def test_no_copies_where_no_word_has_a_candidate() -> None:
    rng = np.random.default_rng(0)
    assert [*replacements(Side("Rain falls"), {}, 1.0, rng)] == []
    assert [*replacements(Side("Rain falls"), {(0, 4): []}, 1.0, rng)] == []


def test_what_is_drawn_does_not_depend_on_the_order_of_the_candidates() -> None:
    side = Side("rain falls here")
    candidates = {(0, 4): ["snow", "hail", "fog"], (5, 10): ["drops", "comes", "stops"]}
    turned = dict(reversed(candidates.items()))
    first, second = (
        [*itertools.islice(replacements(side, given, 0.4, np.random.default_rng(3)), 30)]
        for given in (candidates, turned)
    )
    assert first == second
    assert len({made.text for made in first}) == 8
