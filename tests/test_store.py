"""A shard counts with a receipt that is about it, and is put there anew where it does not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdpipe import records
from kdpipe.store import FORMAT, Store

QUESTION = {"ask": "one"}
OTHER = {"ask": "another"}
ANSWER = {"values": torch.arange(6.0).reshape(2, 3)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two answers."""
    made = Store(tmp_path / "store")
    made.put(QUESTION, ANSWER, {"device": "cpu"})
    made.put(OTHER, {"values": torch.ones(2, 3)}, {})
    return made


def cut(store: Store, key: str) -> None:
    path = store.path(key)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])


def swap(store: Store, key: str) -> None:
    """The receipt of the other shard, which has as many bytes."""
    other = store.receipt_path(store.key(OTHER)).read_bytes()
    store.receipt_path(key).unlink()
    store.receipt_path(key).write_bytes(other)


def flip(store: Store, key: str) -> None:
    data = bytearray(store.receipt_path(key).read_bytes())
    data[len(data) // 2] ^= 1
    store.receipt_path(key).unlink()
    store.receipt_path(key).write_bytes(data)


def take_receipt(store: Store, key: str) -> None:
    store.receipt_path(key).unlink()


def take_shard(store: Store, key: str) -> None:
    store.path(key).unlink()


def test_an_answer_is_found_with_its_receipt(store: Store) -> None:
    receipt = store.find(store.key(QUESTION))
    assert receipt is not None
    assert (receipt.question, receipt.made_by) == (QUESTION, {"device": "cpu"})
    assert store.intact(store.key(QUESTION))
    assert store.find(store.key({"ask": "a third"})) is None


@pytest.mark.parametrize("damage", [cut, swap, flip, take_receipt, take_shard])
def test_what_is_not_whole_does_not_count_and_is_put_anew(
    store: Store, damage: Callable[[Store, str], None]
) -> None:
    key = store.key(QUESTION)
    damage(store, key)
    assert store.find(key) is None
    assert not store.intact(key)
    assert store.put(QUESTION, ANSWER, {}) == key
    assert store.intact(key)
    assert torch.equal(load_file(store.path(key))["values"], ANSWER["values"])


def test_of_two_answers_the_first_stays(store: Store) -> None:
    key = store.key(QUESTION)
    store.put(QUESTION, {"values": torch.zeros(2, 3)}, {"device": "cuda"})
    assert torch.equal(load_file(store.path(key))["values"], ANSWER["values"])
    receipt = store.find(key)
    assert receipt is not None
    assert receipt.made_by == {"device": "cpu"}


def test_a_pipe_is_no_shard(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    key = store.key(QUESTION)
    told = {"format": FORMAT, "question": QUESTION, "made_by": {}, "bytes": 0, "digest": "x"}
    store.receipt_path(key).parent.mkdir(parents=True)
    store.receipt_path(key).write_bytes(records.seal(json.dumps(told).encode()))
    os.mkfifo(store.path(key))
    assert not store.intact(key)
