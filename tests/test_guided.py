from __future__ import annotations

import json
import random

import pytest

from tests import guided

MADE = [(name, seed) for name, one in guided.TARGETS.items() for seed in range(len(one.seeds()))]
FINDS = [(path.parent.name, path.name) for path in sorted(guided.FOUND.glob("*/*"))]


@pytest.mark.parametrize(("name", "seed"), MADE)
def test_what_guided_fuzzing_begins_with_is_read(name: str, seed: int) -> None:
    target = guided.TARGETS[name]
    target.read(target.seeds()[seed])


@pytest.mark.parametrize("name", guided.TARGETS)
def test_some_changes_without_guidance(name: str) -> None:
    target, dice = guided.TARGETS[name], random.Random(name)
    for seed in range(40):
        data = dice.choice(target.seeds())
        target.read(guided.changed(data, guided.LONGEST, seed, lambda data, _: data[::-1]))


@pytest.mark.parametrize(("name", "file"), FINDS)
def test_what_was_found_stays_mended(name: str, file: str) -> None:
    guided.TARGETS[name].read((guided.FOUND / name / file).read_bytes())


def test_an_error_that_nobody_explains_is_a_find() -> None:
    with guided.expected():
        raise FileNotFoundError("x")
    with pytest.raises(KeyError), guided.expected():
        raise KeyError("x")


def test_headers_keep_their_form() -> None:
    data = guided.headers()[0]
    found = [guided.changed(data, 1 << 20, seed, lambda data, _: b"bytes") for seed in range(20)]
    whole = [one for one in found if one != b"bytes"]
    assert len(whole) > 10
    for one in whole:
        size = int.from_bytes(one[:8], "little")
        assert json.loads(one[8 : 8 + size]) is not None
        assert one[8 + size :] == data[8 + int.from_bytes(data[:8], "little") :]
