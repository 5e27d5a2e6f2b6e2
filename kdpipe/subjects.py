"""Who is measured: the teacher, the student before training, and the student as it was saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kdpipe.activations import Dims, Tokens
from kdpipe.batches import Rows
from kdpipe.cache import Cache
from kdpipe.corpus import Corpus
from kdpipe.device import pick_device, pick_dtype
from kdpipe.errors import ArtifactError
from kdpipe.job import untrained
from kdpipe.join import join
from kdpipe.load import load_encoder
from kdpipe.masked_logits import unpacked
from kdpipe.modules import head_of
from kdpipe.parts import EMBEDDING, LOGITS, Needs
from kdpipe.project import Project
from kdpipe.tasks.subject import HeldOut, Subject

_MOST_ROWS = 20_000


def subjects(
    project: Project, name: str, corpus: Corpus, caches: Mapping[str, Cache], device: str
) -> tuple[list[Subject], Cache | None]:
    """Teacher, if any, untrained and trained, in this order, on one device and in one dtype.

    Of several teachers it is the first who answers what the student does, or simply the first;
    beside them its cache.
    """
    folder = project.student_folder(name)
    before, tokenizer = untrained(project, name, corpus)
    where = pick_device(device)
    student = Subject(
        name=name,
        encoder=load_encoder(folder, head_of(folder), mlm=before.answers == "mlm").to(where).eval(),
        tokenizer=tokenizer,
        max_seq_length=corpus.facts.max_seq_length,
        prompt=corpus.facts.prompt,
        dtype=pick_dtype("auto", where),
        folder=folder,
    )
    start = replace(student, name=f"{name}, untrained", encoder=before.to(where).eval())
    own = [replace(start, folder=None), student]
    beside = _beside(caches, before.dims)
    teacher = None if beside is None else project.teacher_in(beside)
    cache = None if beside is None else caches[beside]
    if teacher is None or cache is None:
        return own, cache
    read = cache.corpus.facts
    said = replace(
        student,
        name=teacher.name,
        encoder=teacher.load().to(where).eval(),
        tokenizer=teacher.tokenizer,
        max_seq_length=read.max_seq_length,
        prompt=read.prompt,
        alike=read.tokenizer == corpus.facts.tokenizer,
        folder=teacher.folder,
    )
    return [said, *own], cache


def _beside(caches: Mapping[str, Cache], student: Dims) -> str | None:
    alike = (name for name, cache in caches.items() if cache.dims.classes == student.classes)
    return next(alike, next(iter(caches), None))


def held_out(corpus: Corpus, cache: Cache | None) -> HeldOut:
    """Rows that no student trained on, with what the teacher says about them, from the cache.

    Raises:
        ArtifactError: the corpus holds nothing out.
    """
    joined = None if cache is None else join(corpus, cache, Needs())
    known = True if joined is None or joined.known is None else joined.known
    rows = np.flatnonzero(corpus.held_out & known)[:_MOST_ROWS]
    if not len(rows):
        raise ArtifactError(f"{corpus.folder} holds no rows out: set 'validation' above 0")
    tokens = Tokens.of(corpus.gather(rows), corpus.facts.prompt_tokens)
    if cache is None or joined is None:
        return HeldOut(tokens, None)
    there, others = rows, None
    if joined.row_of is not None:
        there = joined.row_of[rows]
        others = Tokens.of(cache.corpus.gather(there), cache.corpus.facts.prompt_tokens)
    said = cache.read(there, cache.provides & {EMBEDDING, LOGITS}).values
    embeddings, logits = (
        said[part].numpy() if part in said else None for part in (EMBEDDING, LOGITS)
    )
    likeliest = _likeliest(cache, rows, tokens) if joined.row_of is None else None
    return HeldOut(tokens, embeddings, others, logits, cache.dims.classes, likeliest)


def _likeliest(cache: Cache, rows: Rows, tokens: Tokens) -> Tensor | None:
    """[N] int64: what the teacher takes each masked token for; None where it was not asked."""
    part = cache.dims.masked
    if part is None:
        return None
    first = unpacked(cache.read(rows, frozenset({part}))[part])[1][:, 0]
    if not part.only_masked:
        return first.where(tokens.masked, -1)
    return torch.full_like(tokens.ids, -1).masked_scatter(tokens.masked, first)
