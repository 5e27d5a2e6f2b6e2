"""One pass of the teacher over a corpus: only over blocks whose answers are not in the store yet.

Legend: V vectors, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional

from kdpipe import artifact, cache, io, records, storage
from kdpipe.cache import CacheFacts, Difference
from kdpipe.corpus import Corpus
from kdpipe.encoder import Encoder, embed, keep_in
from kdpipe.errors import NonFiniteError, UsageError
from kdpipe.known_rows import Known, about_rows
from kdpipe.parts import EMBEDDING, Part, listed
from kdpipe.passes import plan_block, read_blocks
from kdpipe.progress import Progress, counted
from kdpipe.questions import Asking, Todo, cache_identity
from kdpipe.store import Store
from kdpipe.targets import Question

_SAMPLE = 32
"""Rows of the first block that show how the dtype differs from fp32."""


def answer(
    asking: Asking,
    todo: list[Todo],
    store: Store,
    load: Callable[[], Encoder],
    known: Known | None = None,
) -> None:
    """Let the teacher read what is missing; what `known` has is not read again.

    Raises:
        UsageError: a target that this teacher does not have.
        NonFiniteError: the teacher gave NaN or Inf, or the storage type overflowed; rows are named.
        ArtifactError: a block of the corpus is damaged, or changed while it was read.
    """
    probe = _probe(asking, store)
    if todo or not probe.is_file():
        encoder = load()
        check(asking, encoder)
        if not probe.is_file():
            io.make_folder(store.root)
            told = None if known is None else known.told(asking)
            told = told or _introduce(encoder, asking)
            asking.corpus.mapped.refuse_changed()
            io.publish(probe, records.seal(io.canonical(told)))
        keep_in(encoder, asking.dtype)
        _run(asking, todo, store, encoder, known)


def facts(asking: Asking, store: Store) -> CacheFacts:
    """What the finished cache is, once everything has been answered.

    Raises ArtifactError where what is kept of the teacher, or a shard, cannot be read.
    """
    return CacheFacts(
        teacher=asking.teacher,
        tokenizer=asking.corpus.facts.tokenizer,
        dtype=asking.dtype,
        prompt_tokens=asking.corpus.facts.prompt_tokens,
        rows=asking.corpus.facts.rows,
        questions=tuple(asking.questions),
        widths=asking.widths(store),
        **records.read_sealed(_probe(asking, store)),
    )


def _probe(asking: Asking, store: Store) -> Path:
    """Where it is kept what `_introduce` says."""
    first = asking.corpus.facts.blocks[0].tokens_digest
    prompt_tokens = asking.corpus.facts.prompt_tokens
    version = artifact.VERSIONS[cache.KIND]
    # With its head for masked tokens a teacher tells more of itself than without.
    head = ["mlm"] if asking.spec.asks_mlm else []
    told = io.identity([version, asking.teacher, prompt_tokens, asking.dtype, first, *head])
    return store.root / f"teacher-{told[:32]}.json"


def check(asking: Asking, encoder: Encoder) -> None:
    """Refuse targets that a teacher does not have; raises UsageError."""
    depth, gives = encoder.dims.layers, encoder.gives
    for part in (question.what for question in asking.questions):
        if part.layer is not None and part.layer > depth:
            raise UsageError(
                f"the cache asks for {part}, the teacher has {counted(depth, 'layer')}: choose"
                " among them"
            )
        if part.module is not None:
            encoder.module_width(part.module)
        elif part.layer is None and part._replace(top_k=None) not in {EMBEDDING, *gives}:
            has, remedy = f"gives {listed(gives)}", "change 'per' of the target"
            if not gives:
                has, remedy = "has no head", "use a teacher that was trained for the task"
            raise UsageError(f"the cache asks for {part}, the teacher {has}: {remedy}")


def finish(
    asking: Asking, facts: CacheFacts, store: Store, folder: Path, inputs: dict[str, str]
) -> None:
    """Link the shards into the cache's folder and write its manifest."""
    io.make_folder(folder)
    parts = []
    for block in asking.corpus.facts.blocks:
        for question in asking.questions:
            whole = asking.full(block, question)
            key, name = store.key(whole), cache.name_of(whole, question)
            receipt = store.find(key)
            assert receipt is not None, "every question has been answered"
            io.place(store.path(key), folder / name)
            parts.append(artifact.Part(name=name, bytes=receipt.bytes, digest=receipt.digest))
    artifact.unfinish(folder)
    io.prune(folder, {part.name for part in parts})
    artifact.finish(
        folder,
        artifact.Manifest(
            format=cache.KIND,
            version=artifact.VERSIONS[cache.KIND],
            spec=cache_identity(asking.spec),
            inputs=inputs,
            facts=facts.identity(),
            files=tuple(parts),
        ),
    )


def _run(
    asking: Asking, todo: list[Todo], store: Store, encoder: Encoder, known: Known | None
) -> None:
    total = sum(item.tokens for item in todo)
    made_by = {
        "device": encoder.device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    with Progress("cache-teacher", total=total, unit="tokens") as bar:
        for count, (item, said, tokens) in enumerate(read_blocks(asking, todo, encoder), start=1):
            for question in item.questions:
                encode = storage.encode if question.top_k is None else storage.encode_largest
                kept, used = dict[str, Tensor](), {**made_by, "tokens_per_batch": tokens}
                if question.what in said.values:
                    kept = encode(said[question.what], question.storage)
                if item.known is not None:
                    assert known is not None, "who else said that they are"
                    kept = known.complete(item, question, kept, asking.corpus)
                    used["known_rows"] = item.block.rows - len(item.unread)
                _refuse_non_finite(kept, question, item, asking.corpus)
                kept |= about_rows(asking.corpus, item.index, question.what)
                asking.corpus.mapped.refuse_changed(asking.corpus.path(item.index))
                store.put(asking.full(item.block, question), kept, used)
            bar.advance(item.tokens, note=f"{count}/{counted(len(todo), 'block')}")


def _introduce(encoder: Encoder, asking: Asking) -> dict[str, Any]:
    """Widths of the teacher, and how its dtype differs from fp32 on a sample of the first block.

    From then on the teacher computes in that dtype.
    Raises NonFiniteError where that cannot be said.
    """
    difference = None
    if asking.dtype != "fp32":
        first = asking.corpus.facts.blocks[0]
        rows, _ = plan_block(asking, Todo(0, first, [], first.tokens), encoder.device)
        sample = rows.take(torch.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows))).long())
        exact = embed(encoder, sample, "fp32")
        keep_in(encoder, asking.dtype)
        used = embed(encoder, sample, asking.dtype)
        bad = int((~used.isfinite()).any(1).sum())
        if bad:
            raise NonFiniteError(
                f"the teacher's embedding is NaN or Inf in {asking.dtype} for {bad} of"
                f" {counted(len(used), 'row')} of the first block: use dtype: fp32"
            )
        difference = Difference(
            rows=len(exact),
            min_cosine=round(float(functional.cosine_similarity(exact, used).min()), 5),
            max_abs=float(f"{float((exact - used).abs().max()):.2g}"),
        ).identity()
    return cache.told_of(encoder.dims) | {"difference": difference}


def _refuse_non_finite(
    kept: dict[str, Tensor], question: Question, item: Todo, corpus: Corpus
) -> None:
    bad = storage.not_finite(kept)
    if not bool(bad.any()):
        return
    rows = rows_of(bad, question.what, item, corpus)
    raise NonFiniteError(
        f"{question.name} is NaN or Inf for {counted(len(rows), 'row')} of block {item.index} (rows"
        f" {rows[:5]} ...): keep it in fp32 or bf16 if fp16 overflows, use dtype: fp32, or take"
        " these rows out"
    )


def rows_of(bad: Tensor, part: Part, item: Todo, corpus: Corpus) -> list[int]:
    """The rows of the corpus that some vectors of a part, `bad` [V] bool of a block's, are of."""
    starts = corpus.block(item.index).starts_of(part)
    found = np.unique(np.searchsorted(starts[1:], bad.nonzero().flatten().numpy(), side="right"))
    return [item.block.first_row + row for row in found.tolist()]
