"""Noise on words: exact where nothing is left to chance, and the stated chances elsewhere."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from kdpipe.augment.perturb import (
    deleting,
    long_disorder,
    masking,
    n_gram_sampling,
    short_disorder,
)

ALL = (masking, deleting, n_gram_sampling, short_disorder, long_disorder)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def near(count: int, draws: int, probability: float) -> bool:
    """Within five standard deviations: one in a million of right programs fails, and of seeds."""
    return abs(count - draws * probability) <= 5 * math.sqrt(
        draws * probability * (1 - probability)
    )


def test_masking() -> None:
    words = [*"abcdef"]
    assert masking(words, rng(), probability=0.0) == words
    assert masking(words, rng(), probability=1.0) == ["[MASK]"] * 6
    assert masking(words, rng(), probability=1.0, mask="<mask>") == ["<mask>"] * 6
    many = masking(["a"] * 20_000, rng())
    assert near(many.count("[MASK]"), 20_000, 0.1)
    assert set(many) == {"a", "[MASK]"}
    both = Counter(tuple(masking(["a", "b"], rng(seed), probability=0.5)) for seed in range(4000))
    assert all(near(count, 4000, 0.25) for count in both.values())
    assert len(both) == 4


def test_deleting_keeps_the_order() -> None:
    words = [str(number) for number in range(20_000)]
    assert deleting(words, rng(), probability=0.0) == words
    assert deleting(words, rng(), probability=1.0) == []
    left = [int(word) for word in deleting(words, rng())]
    assert left == sorted(left)
    assert near(20_000 - len(left), 20_000, 0.1)


def test_n_gram_sampling_draws_length_and_place_evenly() -> None:
    words, draws, generator = [*"abcdefg"], 20_000, rng()
    found = Counter("".join(n_gram_sampling(words, generator)) for _ in range(draws))
    chances = {
        "abcdefg"[start : start + length]: 0.2 / (7 - length + 1)
        for length in range(1, 6)
        for start in range(7 - length + 1)
    }
    assert found.keys() == chances.keys()
    assert all(near(found[gram], draws, chance) for gram, chance in chances.items())


def test_n_gram_sampling_of_other_lengths_and_of_short_rows() -> None:
    generator = rng()
    one_sided = {"lengths": (2, 9), "probabilities": (0.0, 1.0)}
    assert n_gram_sampling([*"abcd"], generator, **one_sided) == [*"abcd"]
    found = {
        "".join(n_gram_sampling([*"abcd"], generator, lengths=(3,), probabilities=(1.0,)))
        for _ in range(50)
    }
    assert found == {"abc", "bcd"}
    with pytest.raises(ValueError, match="robabilities do not sum to 1"):
        n_gram_sampling([*"abcd"], generator, lengths=(3,), probabilities=(0.5,))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (0, "abcdefgh"),
        (1, "badcfehg"),
        (2, "cbafedhg"),
        (3, "cabfdehg"),
        (4, "bcaefdhg"),
    ],
)
def test_short_disorder_of_one_kind(case: int, expected: str) -> None:
    chances = [float(number == case) for number in range(5)]
    assert "".join(short_disorder([*"abcdefgh"], rng(), probabilities=chances)) == expected
    assert short_disorder(["a"], rng(), probabilities=chances) == ["a"]


def orders(words: str, chances: tuple[float, ...]) -> Iterator[tuple[str, float]]:
    """Every outcome with its chance, by following each draw."""
    if len(words) < 2:
        yield words, 1.0
        return
    for rest, chance in orders(words[1:], chances):
        yield words[0] + rest, chances[0] * chance
    for case, order in enumerate(("ba", "cba", "cab", "bca"), start=1):
        taken = 2 if len(words) == 2 else len(order)
        turned = words[1] + words[0] if len(words) == 2 else ""
        turned = turned or "".join(words["abc".index(letter)] for letter in order)
        for rest, chance in orders(words[taken:], chances):
            yield turned + rest, chances[case] * chance


@pytest.mark.parametrize("chances", [(0.9, 0.1, 0.0, 0.0, 0.0), (0.4, 0.1, 0.2, 0.1, 0.2)])
def test_short_disorder_has_the_chances_of_its_tree(chances: tuple[float, ...]) -> None:
    draws, generator, expected = 10_000, rng(), dict[str, float]()
    for outcome, chance in orders("vwxyz", chances):
        expected[outcome] = expected.get(outcome, 0.0) + chance
    assert sum(expected.values()) == pytest.approx(1.0)
    found = Counter(
        "".join(short_disorder([*"vwxyz"], generator, probabilities=chances)) for _ in range(draws)
    )
    assert found.keys() <= {outcome for outcome, chance in expected.items() if chance}
    assert all(near(found[outcome], draws, chance) for outcome, chance in expected.items())


def test_short_disorder_swaps_one_pair_in_ten_by_default() -> None:
    generator = rng()
    swapped = sum(short_disorder(["a", "b"], generator) == ["b", "a"] for _ in range(10_000))
    assert near(swapped, 10_000, 0.1)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (2, "badcfehgji"),
        (3, "cdabghefij"),
        (4, "cdabghefij"),
        (4.9, "cdabghefij"),
        (10, "fghijabcde"),
        (0.4, "cdabghefij"),
        (0.25, "badcfehgji"),
        (1, "fghijabcde"),
        (11, "abcdefghij"),
        (0.05, "abcdefghij"),
    ],
)
def test_long_disorder_where_it_is_sure(length: float, expected: str) -> None:
    assert (
        "".join(long_disorder([*"abcdefghij"], rng(), probability=1.0, length=length)) == expected
    )
    assert long_disorder([*"abcdefghij"], rng(), probability=0.0, length=length) == [*"abcdefghij"]


def test_long_disorder_by_default_moves_twenty_words_with_one_chance_in_ten() -> None:
    words, draws, generator = [str(number) for number in range(21)], 10_000, rng()
    found = Counter(tuple(long_disorder(words, generator)) for _ in range(draws))
    first = (*words[10:20], *words[:10], "20")
    second = ("0", *words[11:], *words[1:11])
    assert found.keys() == {tuple(words), first, second}
    assert near(found[first], draws, 0.1)
    assert near(found[second], draws, 0.9 * 0.1)
    assert all(long_disorder(words[:19], generator) == words[:19] for _ in range(200))


def test_a_row_without_words_and_the_words_given_stay() -> None:
    for perturb, seed in itertools.product(ALL, range(20)):
        words = ("a", "b", "c")
        assert set(perturb(words, rng(seed))) <= {"a", "b", "c", "[MASK]"}
        assert perturb([], rng(seed)) == []
        assert perturb(words, rng(seed)) == perturb([*words], rng(seed))
