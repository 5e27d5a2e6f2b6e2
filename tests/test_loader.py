"""Batches come in their order, read ahead for a GPU and when asked for on a CPU."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from kdpipe.loader import read_ahead

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("device", [CPU, GPU])
def test_all_come_in_their_order(device: torch.device) -> None:
    assert [*read_ahead(range(50), lambda item: item * item, device)] == [n * n for n in range(50)]
    assert [*read_ahead([], str, device)] == []


@pytest.mark.parametrize("device", [CPU, GPU])
def test_errors_rise_at_the_caller_behind_what_was_read_before(device: torch.device) -> None:
    found = read_ahead([3, 2, 1, 0], lambda item: 6 // item, device)
    assert [next(found), next(found), next(found)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(found)


@pytest.mark.parametrize(("device", "ahead"), [(CPU, 0), (GPU, 4)])
def test_how_many_are_read_ahead(device: torch.device, ahead: int) -> None:
    read, threads = list[int](), set[int]()

    def one(item: int) -> int:
        threads.add(threading.get_ident())
        read.append(item)
        return item

    found = read_ahead(range(100), one, device)
    next(found)
    time.sleep(0.3)
    # One waits for a place.
    assert len(read) == (1 if device == CPU else 1 + ahead + 1)
    assert (threads == {threading.get_ident()}) == (device == CPU)
    found.close()  # type: ignore[attr-defined]
    assert not [one for one in threading.enumerate() if one.name == "read-ahead"]
    assert len(read) < 10
