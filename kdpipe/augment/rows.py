"""The copies of one row: each text of it in each way, drawn from the seed and the row alone."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np

from kdpipe import io
from kdpipe.augment.methods import Method
from kdpipe.augment.side import Side
from kdpipe.augment.spec import AugmentationSpec
from kdpipe.augment.tools import Tools
from kdpipe.errors import UsageError
from kdpipe.sources import Row


def copies(row: Row, spec: AugmentationSpec, tools: Tools) -> list[Row]:
    """The copies of a row, method by method, each other than the row and than the copies before it.

    Of a pair one text at a time is altered, the other stays as it is. Copies without text are left
    out. Raises UsageError for a method that moves words away from their tags.
    """
    sides = [Side(row.text, row.words)]
    if row.text_pair is not None:
        sides.append(Side(row.text_pair))
    seen, found = {(row.text, row.text_pair)}, list[Row]()
    for number, method in enumerate(spec.methods):
        _refuse_moved_tags(row, method)
        for place, side in enumerate(sides):
            rng = generator(spec.seed, number, place, row)
            for made in itertools.islice(method.copies(side, rng, tools), spec.copies):
                copy = _with(row, place, made)
                if made.text.strip() and (copy.text, copy.text_pair) not in seen:
                    seen.add((copy.text, copy.text_pair))
                    found.append(copy)
    return found


def generator(seed: int, method: int, side: int, row: Row) -> np.random.Generator:
    """What a method draws from for one side of a row: the same wherever the row stands."""
    told = io.canonical([seed, method, side, row.text, row.text_pair])
    state = hashlib.blake2b(told, digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(state, "little")))


def _with(row: Row, place: int, side: Side) -> Row:
    if place == 1:
        return row._replace(text_pair=side.text)
    return row._replace(text=side.text, words=side.words)


def _refuse_moved_tags(row: Row, method: Method) -> None:
    if row.words is not None and isinstance(row.label, tuple) and not method.keeps_places:
        raise UsageError(
            "words with a tag each can be masked or replaced, but not moved or left out: take the"
            " other steps out of method 'perturb'"
        )
