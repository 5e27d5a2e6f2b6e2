"""Word vectors from a text file, as GloVe and fastText publish them: only those that are wanted.

A line is a word and its values, split by blanks; a first line of two whole numbers says how many
lines follow and how many values each has. Words may have blanks inside, as in GloVe 840B.

Legend: W words, D values of a vector.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kdpipe.errors import ArtifactError
from kdpipe.progress import counted

SUFFIXES = (".txt", ".vec", ".gz")

_MAX_LINE = 1 << 20
"""Bytes; what is longer is no word with its vector."""
_HEADER = re.compile(rb"\d{1,12}\s+[1-9]\d{0,5}")
_REMEDY = "mend the line, or download the file again"

Vector = npt.NDArray[np.float32]


class Vectors(NamedTuple):
    """The vectors of some words, in the order in which they were asked for."""

    values: Vector
    """[W, D]; zeros for a word that is not in the file."""
    found: npt.NDArray[np.bool_]
    """[W]: which words are in the file."""


def read_vectors(path: Path, wanted: Sequence[str]) -> Vectors:
    """The vectors of `wanted` words; a word that is not in the file takes that of its lower case.

    Reads line by line and holds nothing but what is wanted; of a word that stands there twice the
    first counts. Of lines that are not wanted only the number of blanks is looked at. Raises
    ArtifactError, with the number of the line, for what is no file of vectors.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ArtifactError(
            f"{path}: word vectors are read from text: {', '.join(SUFFIXES)}; unpack or convert it"
        )
    spellings = [(_encode(word), _encode(word.lower())) for word in wanted]
    width, known = _read(path, {word for both in spellings for word in both if word.strip()})
    values = np.zeros((len(wanted), width), np.float32)
    found = np.zeros(len(wanted), np.bool_)
    for row, (own, lower) in enumerate(spellings):
        vector = known.get(own, known.get(lower))
        if vector is not None:
            values[row], found[row] = vector, True
    return Vectors(values, found)


def _encode(word: str) -> bytes:
    return word.encode("utf-8", "surrogatepass")


def _read(path: Path, wanted: set[bytes]) -> tuple[int, dict[bytes, Vector]]:
    """How many values a vector of the file has, and the vectors of wanted words, none blank."""
    # Lines are told apart by what stands before their first blank: most need no more than that.
    starts = {word.split(None, 1)[0] for word in wanted}
    known: dict[bytes, Vector] = {}
    count, width, lines = None, 0, 0
    for number, line in enumerate(_lines(path), 1):
        start = line.split(None, 1)[:1]
        if not start:
            continue
        if not width:
            count, width = _shape(line, f"{path}:{number}")
            if count is not None:
                continue
        lines += 1
        if start[0] in starts or line.count(b" ") < width:
            word, fields = _entry(line, width, f"{path}:{number}")
            if word in wanted and word not in known:
                known[word] = _vector(fields, f"{path}:{number}")
    if not lines:
        raise ArtifactError(f"{path} is empty: no line has a word vector; download it again")
    if count not in (None, lines):
        raise ArtifactError(
            f"{path} holds {counted(lines, 'vector')}, but its first line says {count}: download it"
            " again, or mend that line"
        )
    return width, known


def _lines(path: Path) -> Iterator[bytes]:
    """Lines without blanks at their right; only a line feed ends one, as words hold all else."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            number = 0
            while line := file.readline(_MAX_LINE):
                number += 1
                if len(line) == _MAX_LINE:
                    raise ArtifactError(
                        f"{path}:{number}: longer than {_MAX_LINE - 1} bytes: no word vector"
                    )
                yield line.rstrip()
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist: check the path of the vectors") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ArtifactError(f"{path} is damaged ({error}): download it again") from None


def _shape(line: bytes, where: str) -> tuple[int | None, int]:
    """How many vectors there are, if the first line says so, and how many values each has."""
    first, *fields = line.split()
    if _HEADER.fullmatch(line):
        return int(first), int(fields[0])
    width = 0
    while width < len(fields) and _is_number(fields[-1 - width]):
        width += 1
    if not width:
        raise ArtifactError(f"{where}: expected a word and numbers, split by blanks; {_REMEDY}")
    return None, width


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _entry(line: bytes, width: int, where: str) -> tuple[bytes, list[bytes]]:
    """A word, which may have blanks inside, and its values."""
    word, *fields = line.rsplit(None, width)
    if len(fields) == width:
        return word, fields
    if line[:1].isspace() and len(fields) == width - 1:
        return b" ", [word, *fields]  # the word itself is a blank
    expected, found = counted(width, "value"), counted(len(fields), "value")
    raise ArtifactError(f"{where}: expected a word and {expected}, found {found}; {_REMEDY}")


def _vector(fields: list[bytes], where: str) -> Vector:
    for place, field in enumerate(fields, 1):
        if not _is_number(field):
            shown = field.decode("utf-8", "replace")
            raise ArtifactError(f"{where}: value {place} is no number: {shown!r}; {_REMEDY}")
    with np.errstate(over="ignore"):
        vector = np.array([float(field) for field in fields], np.float64).astype(np.float32)
    if not np.isfinite(vector).all():
        raise ArtifactError(f"{where}: a value is not finite; {_REMEDY}")
    return vector
