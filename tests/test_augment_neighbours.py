"""The nearest words of a file of vectors, beside cosines taken one by one."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pytest

from kdpipe.augment.neighbours import read_neighbours
from kdpipe.augment.tools import Tools
from kdpipe.errors import ArtifactError
from tests.masked import VECTORS, write_vectors


def cosine(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    lengths = math.hypot(*first) * math.hypot(*second)
    return sum(a * b for a, b in zip(first, second, strict=True)) / lengths if lengths else 0.0


@pytest.mark.parametrize("word", ["rain", "snow", "train", "berlin", "Berlin"])
def test_nearest_by_cosine_without_the_word_itself(tmp_path, word):
    near = read_neighbours(write_vectors(tmp_path / "glove.txt"), 100)
    others = [other for other in VECTORS if other != word]
    others.sort(key=lambda other: -cosine(VECTORS[word], VECTORS[other]))
    for count in (1, 3, 8, 100):
        looked_at = others[:count]
        assert near.nearest(word, count) == [one for one in looked_at if one.isalpha()]


def test_lower_case_for_a_word_that_is_not_there(tmp_path):
    near = read_neighbours(write_vectors(tmp_path / "glove.txt"), 100)
    assert near.nearest("RAIN", 2) == near.nearest("rain", 2) == ["hail"]
    assert near.nearest("Berlin", 1) == ["berlin"]
    assert near.nearest("BERLIN", 1) == ["Berlin"]
    assert near.nearest("fog", 3) == []


def test_only_the_first_words_of_a_file_count(tmp_path):
    near = read_neighbours(write_vectors(tmp_path / "glove.txt"), 3)
    assert near.words == ["rain", "hail", "snow"]
    assert near.nearest("rain", 15) == ["hail", "snow"]
    assert near.nearest("train", 15) == []


def test_headers_packed_files_words_with_blanks_and_words_twice(tmp_path):
    text = "6 2\nrain 1 0\n. . 1 0\nhail 3 4\nrain 9 9\nb\u00e4r 2 0\nsnow 0 5\n"
    path = tmp_path / "wiki.vec.gz"
    path.write_bytes(gzip.compress(text.encode() + b""))
    near = read_neighbours(path, 5)
    assert near.words == ["rain", ". .", "hail", "b\u00e4r", "snow"]
    expected = np.array([[1, 0], [1, 0], [0.6, 0.8], [1, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(near.vectors, expected, rtol=1e-6)
    assert near.nearest("rain", 4) == ["b\u00e4r", "hail", "snow"]


def test_words_that_are_not_utf_8_are_left_out(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_bytes(b"rain 1 0\nb\xe4r 1 0\nsnow 0 1\n")
    assert read_neighbours(path, 9).words == ["rain", "snow"]


def test_mistakes_of_a_file_are_said_with_their_line(tmp_path):
    tools = Tools(tmp_path, None)
    (tmp_path / "glove.txt").write_text("rain 1 0\nsnow 1\n")
    with pytest.raises(ArtifactError, match=r"glove\.txt:2: expected a word and 2 values"):
        tools.neighbours("glove.txt", 100)
    with pytest.raises(ArtifactError, match=r"no\.txt does not exist: check the path"):
        tools.neighbours("no.txt", 100)
