"""Characters and shapes of words, as NLP Architect has them, but for the id of padding."""

from __future__ import annotations

import string

import numpy as np
import pytest

from kdpipe.nets.features import (
    MAX_CHARACTERS,
    SYMBOLS,
    UNKNOWN_CHARACTER,
    character_array,
    characters_of,
    shape_array,
    shape_of,
)


def test_symbols_have_ids_of_their_own_and_none_is_padding():
    assert string.ascii_letters + " .,;'" == SYMBOLS
    assert [characters_of(symbol) for symbol in SYMBOLS] == [[n] for n in range(1, 58)]
    assert UNKNOWN_CHARACTER == 58


@pytest.mark.parametrize("character", ["0", "-", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\0", "\n"])
def test_other_characters_are_unknown(character):
    assert characters_of(f"a{character}b") == [1, 58, 2]


def test_an_astral_character_is_one_unknown_character():
    assert characters_of("\N{GRINNING FACE}a") == [58, 1]
    assert character_array(["\N{GRINNING FACE}a"], 3).tolist() == [[58, 1, 0]]


@pytest.mark.parametrize(
    ("word", "shape"),
    [
        ("NATO", 1),
        ("A", 1),
        ("Rain", 2),
        ("U.S.", 2),
        ("iPod", 3),
        ("3M", 3),
        ("rain", 4),
        ("1984", 4),
        ("--", 4),
        ("", 4),
        ("\N{LATIN CAPITAL LETTER E WITH ACUTE}t\N{LATIN SMALL LETTER E WITH ACUTE}", 2),
    ],
)
def test_shapes(word, shape):
    assert shape_of(word) == shape


def test_arrays_are_the_functions_cut_and_padded():
    words = ["a", "Zebra", "", "don't", "extraordinarily-long", "x" * 12, "\ud800"]
    found = character_array(words)
    expected = [(characters_of(word)[:12] + [0] * 12)[:12] for word in words]
    assert MAX_CHARACTERS == 12
    assert found.dtype == np.int64
    assert found.tolist() == expected
    assert character_array(words, 3).tolist() == [row[:3] for row in expected]
    assert shape_array(words).tolist() == [shape_of(word) for word in words]
    assert shape_array(words).dtype == np.int64


def test_no_words_give_arrays_of_no_rows():
    assert character_array([]).shape == (0, 12)
    assert shape_array([]).shape == (0,)
