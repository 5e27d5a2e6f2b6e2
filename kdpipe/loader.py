"""From planned rows to batches that are ready to train on, read ahead by one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from kdpipe.activations import Activations, Tokens
from kdpipe.batches import Rows
from kdpipe.cache import Cache
from kdpipe.corpus import Corpus
from kdpipe.parts import Needs

T = TypeVar("T")
S = TypeVar("S")
_AHEAD = 4


@dataclass(frozen=True)
class Batch:
    """Rows of the corpus with what each teacher said about them."""

    tokens: Tokens
    teachers: dict[str, Activations]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.tokens.to(device),
            {name: said.to(device) for name, said in self.teachers.items()},
        )


def read_batch(
    corpus: Corpus, caches: Mapping[str, Cache], needs: Mapping[str, Needs], rows: Rows
) -> Batch:
    """One batch on the CPU; raises ArtifactError where a file is not what its manifest says."""
    tokens = Tokens.of(corpus.gather(rows), corpus.facts.prompt_tokens)
    return Batch(tokens, {name: caches[name].read(rows, asked) for name, asked in needs.items()})


def read_ahead(items: Iterable[S], read: Callable[[S], T]) -> Iterator[T]:
    """`read(item)` for each item, in order, a few ahead; errors rise at the caller."""
    ready: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(_AHEAD)
    stop = threading.Event()

    def work() -> None:
        try:
            for item in items:
                if not _put(ready, (read(item), None, False), stop):
                    return
            _put(ready, (None, None, True), stop)
        except BaseException as error:  # noqa: BLE001 - handed to the caller, which raises it
            _put(ready, (None, error, True), stop)

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            value, error, last = ready.get()
            if error is not None:
                raise error
            if last:
                return
            assert value is not None
            yield value
    finally:
        stop.set()
        thread.join()


def _put(ready: queue.Queue[T], item: T, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
