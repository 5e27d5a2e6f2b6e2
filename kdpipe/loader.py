"""From planned rows to batches that are ready to train on, read ahead where a GPU trains."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from kdpipe.activations import Activations, Tokens
from kdpipe.batches import Rows
from kdpipe.corpus import Corpus
from kdpipe.gold import Gold, labelled
from kdpipe.join import Joined
from kdpipe.objectives.base import Unit
from kdpipe.parts import MASKED_LOGITS, Needs
from kdpipe.tokenizer import first_tokens

T = TypeVar("T")
S = TypeVar("S")
_AHEAD = 4


@dataclass(frozen=True)
class Batch:
    """Rows of the corpus with what each teacher said about them, and their labels."""

    tokens: Tokens
    teachers: dict[str, Activations]
    gold: Tensor | None = None
    """As `Gold.of` makes them; None where the student has no head or the corpus no labels."""
    words: Tensor | None = None
    """[N] bool: the first token of each word; None where rows are no lists of words."""

    def count(self) -> Counter[Unit]:
        """How much there is of each unit that a loss can be a mean over."""
        tokens = len(self.tokens.ids)
        words = tokens if self.words is None else int(self.words.sum())
        labels = 0 if self.gold is None else int(labelled(self.gold).sum())
        masked = self.tokens.vectors(MASKED_LOGITS)
        rows = len(self.tokens)
        counts: dict[Unit, int] = {"rows": rows, "tokens": tokens, "masked": masked}
        return Counter(counts | {"words": words, "labels": labels})

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.tokens.to(device),
            {name: said.to(device) for name, said in self.teachers.items()},
            None if self.gold is None else self.gold.to(device, non_blocking=True),
            None if self.words is None else self.words.to(device, non_blocking=True),
        )


def read_batch(
    corpus: Corpus,
    caches: Mapping[str, Joined],
    needs: Mapping[str, Needs],
    rows: Rows,
    gold: Gold | None,
) -> Batch:
    """One batch on the CPU; raises ArtifactError where a file is not what its manifest says."""
    encoded = corpus.gather(rows)
    said, words = {}, None if encoded.word_of is None else first_tokens(encoded)
    for name, asked in needs.items():
        said[name], there = caches[name].read(rows, asked, encoded)
        if there is not None:
            assert words is not None, "only rows of words are read by several tokenizers"
            words = words & there
    return Batch(
        Tokens.of(encoded, corpus.facts.prompt_tokens),
        said,
        None if gold is None else gold.of(corpus.labels(rows), encoded),
        None if words is None else torch.from_numpy(words),
    )


def read_ahead(items: Iterable[S], read: Callable[[S], T], device: torch.device) -> Iterator[T]:
    """`read(item)` for each item, in order; errors rise at the caller.

    For a GPU another thread reads a few ahead. On a CPU nobody does: a batch takes a thousandth of
    its step to read, and a third thread on the cores of that step slows it by a twelfth.
    """
    if device.type == "cpu":
        yield from map(read, items)
        return
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
