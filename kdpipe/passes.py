"""Forward passes of a teacher over blocks: planned, several at a time, put together again.

Legend: B rows, N tokens, D width. Batches are sorted by length within a block and are a pure
function of the block and of the token budget, so a block computed again on the same kind of
machine has the same bytes.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdpipe.activations import Activations, Tokens
from kdpipe.batches import by_length
from kdpipe.device import pass_overhead
from kdpipe.encoder import Encoder, observe
from kdpipe.errors import ResourceError, out_of_memory
from kdpipe.parts import Part
from kdpipe.pipeline import CacheSpec
from kdpipe.progress import counted, say
from kdpipe.questions import Asking, Todo
from kdpipe.streams import streams

_PROBE_SECONDS = 2.0
_PROBE_BLOCKS = 8
_BUDGET = {"cpu": 2_048}
"""Padded tokens in a forward pass: on 2 cores 1,024 to 4,096 are equally fast."""


class _Begun(NamedTuple):
    """A block whose passes are under way."""

    item: Todo
    rows: Tokens
    tokens_per_batch: int
    passes: list[tuple[Tensor, futures.Future[Activations]]]


def budget(spec: CacheSpec, device: torch.device) -> int:
    """Padded tokens in one forward pass."""
    return spec.tokens_per_batch or _BUDGET.get(device.type, 32_768)


def plan_block(
    asking: Asking, item: Todo, device: torch.device, tokens_per_batch: int | None = None
) -> tuple[Tokens, list[Tensor]]:
    """The unread rows of a block, and which go through the teacher together, shortest first."""
    rows = Tokens.of(asking.corpus.all_of(item.index), asking.corpus.facts.prompt_tokens)
    if item.known is not None:
        rows = rows.take(torch.from_numpy(item.unread))
    if not len(rows):
        return rows, []
    most = tokens_per_batch or budget(asking.spec, device)
    plan = by_length(rows.lengths.numpy(), most, pass_overhead(device))
    return rows, [torch.from_numpy(batch) for batch in plan]


def read_blocks(
    asking: Asking, todo: list[Todo], encoder: Encoder
) -> Iterator[tuple[Todo, Activations, int]]:
    """What the teacher says about unread rows of blocks: as in the corpus, fp32 on the CPU.

    With each comes the token budget of its passes. Where one does not fit into memory, the whole
    block is read again with half the budget, and so are the blocks after it.

    Raises:
        ResourceError: not even one row at a time fits.
    """
    tokens = budget(asking.spec, encoder.device)
    with streams(encoder.device) as pool:

        def begin(item: Todo, tokens: int) -> _Begun:
            rows, batches = plan_block(asking, item, encoder.device, tokens)
            needs = frozenset(question.what for question in item.questions)
            passes = [
                (batch, pool.submit(observe, encoder, rows.take(batch), needs, asking.dtype))
                for batch in batches
            ]
            return _Begun(item, rows, tokens, passes)

        begun: deque[_Begun] = deque()
        for item in todo:
            begun.append(begin(item, tokens))
            # One block ahead, so that no core waits for the last passes of a block.
            if len(begun) > 1:
                read = _finished(begun.popleft(), begin)
                tokens = min(tokens, read[2])
                yield read
        while begun:
            yield _finished(begun.popleft(), begin)


def _finished(begun: _Begun, begin: Callable[[Todo, int], _Begun]) -> tuple[Todo, Activations, int]:
    """A block when all its passes have ended well, those of the last try."""
    while True:
        try:
            return begun.item, _gathered(begun), begun.tokens_per_batch
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        futures.wait([future for _, future in begun.passes])
        item, tokens = begun.item, begun.tokens_per_batch
        if all(len(batch) == 1 for batch, _ in begun.passes):
            longest = int(begun.rows.lengths.max())
            raise ResourceError(
                f"out of memory with single rows of block {item.index} (up to"
                f" {counted(longest, 'token')}): lower max_seq_length of the corpus, or ask for"
                " less in one cache"
            )
        say(
            f"out of memory with {tokens:,} tokens in a pass: block {item.index} is read again with"
            f" {tokens // 2:,}"
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        begun = begin(item, tokens // 2)


def _gathered(begun: _Begun) -> Activations:
    values: dict[Part, Tensor] = {}
    rows = begun.rows
    for batch, future in begun.passes:
        for part, value in future.result().values.items():
            if part not in values:
                values[part] = torch.empty(rows.vectors(part), value.shape[1])
            values[part][rows.vectors_of(batch, part)] = value.cpu()
    return Activations(rows.lengths, values)


def seconds_per_token(
    asking: Asking, todo: list[Todo], encoder: Encoder, seconds: float = _PROBE_SECONDS
) -> float:
    """Measured for about so many seconds on unread rows of some blocks; 0 where there are none."""
    unread = [item for item in todo if item.tokens]
    if not unread:
        return 0.0
    some = unread[:: math.ceil(len(unread) / _PROBE_BLOCKS)]
    planned = [plan_block(asking, item, encoder.device) for item in some]
    work = [(rows, batch) for rows, batches in planned for batch in batches]
    needs = frozenset(question.what for question in some[0].questions)

    def read(place: int) -> tuple[float, int]:
        rows, batch = work[place]
        taken = rows.take(batch)
        for value in observe(encoder, taken, needs, asking.dtype).values.values():
            value.cpu()  # a GPU has not computed it before
        return time.perf_counter(), len(taken.ids)

    with streams(encoder.device) as pool:
        list(pool.map(read, range(min(2, len(work)))))
        begin, end, tokens = time.perf_counter(), 0.0, 0
        # From all over the blocks: short and long rows cost differently.
        order = np.random.default_rng(0).permutation(len(work)).tolist()
        for end, count in pool.map(read, order):
            tokens += count
            if end - begin > seconds:
                break
    return (end - begin) / tokens
