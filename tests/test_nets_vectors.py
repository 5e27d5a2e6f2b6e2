"""Files of word vectors: what is wanted is found, and what is wrong is said with its line."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from kdpipe.errors import ArtifactError
from kdpipe.nets.vectors import read_vectors

GLOVE = "the 0.5 -1 2e-1\nrain 1 2 3\n. . . 4 5 6\nat me@here.org 7 8 9\nRain -1 -2 -3\n"


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["glove.txt", "wiki.vec", "glove.txt.gz"])
@pytest.mark.parametrize("header", ["", "5 3\n"])
def test_wanted_words_in_their_order(tmp_path, name, header):
    path = write(tmp_path / name, header + GLOVE)
    wanted = ["Rain", "snow", "the", "rain", ". . .", "at", "the"]
    values, found = read_vectors(path, wanted)
    assert values.dtype == np.float32
    assert found.tolist() == [True, False, True, True, True, False, True]
    expected = [[-1, -2, -3], [0, 0, 0], [0.5, -1, 0.2], [1, 2, 3], [4, 5, 6], [0, 0, 0]]
    np.testing.assert_array_equal(values, np.array([*expected, [0.5, -1, 0.2]], np.float32))


def test_a_word_takes_the_vector_of_its_lower_case_only_where_it_has_none(tmp_path):
    path = write(tmp_path / "glove.txt", "rain 1 2\nRain 3 4\n")
    values, found = read_vectors(path, ["RAIN", "Rain", "rain", "SNOW"])
    assert values.tolist() == [[1, 2], [3, 4], [1, 2], [0, 0]]
    assert found.tolist() == [True, True, True, False]


def test_the_first_of_two_lines_of_a_word_counts(tmp_path):
    path = write(tmp_path / "glove.txt", "rain 1 2\nrain 3 4\n")
    assert read_vectors(path, ["rain"]).values.tolist() == [[1, 2]]


def test_lines_as_found_in_the_wild(tmp_path):
    # A blank behind the values (fastText), Windows line ends, tabs, blank lines, a word that is a
    # blank, a word with characters that str.splitlines and str.split would split at.
    odd = "a\N{NO-BREAK SPACE}b\N{LINE SEPARATOR}c\x85d"
    text = f"rain 1 2 \nsnow 3 4\r\nhail\t5\t6\n\n 7 8\n{odd} 9 10\n12 11 12\n\n"
    path = write(tmp_path / "wiki.vec", text)
    values, found = read_vectors(path, ["rain", "snow", "hail", odd, "", " ", "12", "7", "\ud800"])
    assert found.tolist() == [True] * 4 + [False, False, True, False, False]
    assert values[found].tolist() == [[1, 2], [3, 4], [5, 6], [9, 10], [11, 12]]


def test_a_first_word_with_blanks_does_not_mislead(tmp_path):
    path = write(tmp_path / "glove.txt", ". . . 1 2\nrain 3 4\n")
    assert read_vectors(path, ["rain"]).values.tolist() == [[3, 4]]


def test_nothing_wanted_and_nothing_found(tmp_path):
    path = write(tmp_path / "glove.txt", GLOVE)
    assert read_vectors(path, []).values.shape == (0, 3)
    values, found = read_vectors(path, ["snow"])
    assert values.tolist() == [[0, 0, 0]]
    assert not found.any()


REMEDY = "mend the line, or download the file again"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rain 1 2 3\nsnow 1 2\n", f":2: expected a word and 3 values, found 2 values; {REMEDY}"),
        (
            "2 3\nrain 1 2 3\nhail 1\n",
            f":3: expected a word and 3 values, found 1 value; {REMEDY}",
        ),
        ("rain 1 2 3\n\nhail\n", f":3: expected a word and 3 values, found 0 values; {REMEDY}"),
        ("snow 1 2 3\nrain 1 x2 3\n", f":2: value 2 is no number: 'x2'; {REMEDY}"),
        ("snow 1 2\nrain 1 nan\n", f":2: a value is not finite; {REMEDY}"),
        ("snow 1 2\nrain 1 1e60\n", f":2: a value is not finite; {REMEDY}"),
        ("PK\x03\x04\n", f":1: expected a word and numbers, split by blanks; {REMEDY}"),
        (
            "3 2\nrain 1 2\nsnow 3 4\n",
            " holds 2 vectors, but its first line says 3: download it again, or mend that line",
        ),
        ("", " is empty: no line has a word vector; download it again"),
        ("0 3\n", " is empty: no line has a word vector; download it again"),
        ("snow 1 2\n" + "x" * (1 << 20), ":2: longer than 1048575 bytes: no word vector"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, text, message):
    path = write(tmp_path / "glove.txt", text)
    with pytest.raises(ArtifactError) as caught:
        read_vectors(path, ["rain"])
    assert str(caught.value) == f"{path}{message}"


@pytest.mark.parametrize("header", ["9" * 5000 + " 3", "1 " + "9" * 30])
def test_a_first_line_of_absurd_numbers_is_no_header(tmp_path, header):
    path = write(tmp_path / "glove.txt", f"{header}\nrain 1 2 3\n")
    assert read_vectors(path, ["snow"]).values.shape == (1, 1)


def test_damaged_missing_and_other_files(tmp_path):
    path = tmp_path / "glove.txt.gz"
    path.write_bytes(gzip.compress(GLOVE.encode())[:-12])
    with pytest.raises(
        ArtifactError, match=r"glove\.txt\.gz is damaged \(.+\): download it again$"
    ):
        read_vectors(path, ["rain"])
    damaged = bytearray(gzip.compress(GLOVE.encode()))
    damaged[10:20] = b"\xff" * 10
    path.write_bytes(damaged)
    with pytest.raises(ArtifactError, match=r"glove\.txt\.gz is damaged \(Error -3"):
        read_vectors(path, ["rain"])
    path.write_bytes(b"rain 1 2 3\n")
    with pytest.raises(ArtifactError, match=r"glove\.txt\.gz is damaged \(Not a gzipped file"):
        read_vectors(path, ["rain"])
    with pytest.raises(ArtifactError) as caught:
        read_vectors(tmp_path / "no.txt", ["rain"])
    missing = f"{tmp_path / 'no.txt'} does not exist: check the path of the vectors"
    assert str(caught.value) == missing
    with pytest.raises(ArtifactError) as caught:
        read_vectors(tmp_path / "glove.zip", ["rain"])
    allowed = "word vectors are read from text: .txt, .vec, .gz; unpack or convert it"
    assert str(caught.value) == f"{tmp_path / 'glove.zip'}: {allowed}"


def test_memory_is_that_of_the_wanted_words(tmp_path):
    path = tmp_path / "glove.txt"
    values = " ".join(["0.25"] * 100)
    path.write_text("".join(f"word{number} {values}\n" for number in range(20_000)))
    tracemalloc.start()
    found = read_vectors(path, [f"word{number}" for number in range(0, 20_000, 1000)]).found
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.all()
    assert path.stat().st_size > 10_000_000
    assert peak < 1_500_000
