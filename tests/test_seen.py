"""Which digests have come before: as a set of Python's says it."""

from __future__ import annotations

import hashlib
import random

import numpy as np

from kdpipe.seen import Seen


def digest(number: int) -> bytes:
    return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=16).digest()


def one_by_one(known: set[bytes], digests: list[bytes]) -> list[bool]:
    """Which are new, where each becomes known at once."""
    found = []
    for one in digests:
        found.append(one not in known)
        known.add(one)
    return found


def test_new_is_what_no_set_has() -> None:
    draw, seen, known = random.Random(0), Seen(), set[bytes]()
    # More and more of them have come before, and the table doubles several times.
    for _ in range(60):
        digests = [digest(draw.randrange(20_000)) for _ in range(draw.choice([0, 1, 700, 1500]))]
        assert seen.new(digests, add=False).tolist() == [one not in known for one in digests]
        assert seen.new(digests, add=True).tolist() == one_by_one(known, digests)
    assert len(known) > 15_000


def test_digests_that_meet_at_one_place() -> None:
    # All begin at the same place, which is the last one: they go on at the first.
    same = np.full((500, 2), 2**64 - 1, np.uint64)
    same[:, 1] = np.arange(1, 501)
    digests = [row.tobytes() for row in same]
    seen = Seen()
    assert (
        seen.new(digests[:300] + digests[:300], add=True).tolist() == [True] * 300 + [False] * 300
    )
    assert seen.new(digests, add=False).tolist() == [False] * 300 + [True] * 200


def test_without_add_nothing_becomes_known() -> None:
    seen = Seen()
    assert seen.new([digest(1), digest(1)], add=False).tolist() == [True, True]
    assert seen.new([digest(1), digest(1)], add=True).tolist() == [True, False]
