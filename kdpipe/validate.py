"""How good a student in training is on rows that it does not train on."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from kdpipe.batches import Rows, by_length
from kdpipe.device import autocast
from kdpipe.loader import read_batch
from kdpipe.parts import EMBEDDING, Needs
from kdpipe.processes import here
from kdpipe.run import Run
from kdpipe.shares import count_all, share_of

MOST_DRAWN = 2048
"""Held-out rows that are measured, where the corpus draws them."""


def rows_to_measure(run: Run) -> Rows:
    """Held-out rows that all teachers have read: all where sources name them, else the first."""
    rows = np.flatnonzero(run.corpus.held_out & run.known)
    return rows if run.corpus.manifest.spec.get("validation_sources") else rows[:MOST_DRAWN]


def measure(run: Run) -> dict[str, float]:
    """`eval_loss` (weights as at the end of training) and `eval_cosine` on held-out rows."""
    rows = rows_to_measure(run)
    if not len(rows):
        return {}
    needs = dict(run.terms.needs_of_teachers())
    with_cosine = run.measures_cosine
    if with_cosine:
        first = next(iter(run.caches))
        needs[first] = needs.get(first, Needs()) | {EMBEDDING}
    of_student = run.terms.needs_of_student() | ({EMBEDDING} if with_cosine else set())
    batches = by_length(run.corpus.lengths[rows], run.spec.tokens_per_batch)
    plan = [rows[batch] for batch in here().mine(batches)]
    # Labels and tokens alone are read first: they say what each batch is a share of.
    whole = count_all(read_batch(run.corpus, {}, {}, some, run.gold) for some in plan)
    loss = cosine = 0.0
    run.student.eval()
    for batch_rows in plan:
        batch = read_batch(run.corpus, run.caches, needs, batch_rows, run.gold).to(run.device)
        share = share_of(batch, whole)
        with torch.inference_mode(), autocast(run.device, run.dtype):
            said = run.student(batch.tokens, of_student)
            total, _ = run.terms(said, batch, progress=1.0, share=share)
        loss += float(total)
        if with_cosine:
            theirs = batch.teachers[first][EMBEDDING]
            cosine += float(functional.cosine_similarity(said[EMBEDDING], theirs, dim=-1).sum())
    sums = torch.tensor([loss, cosine], dtype=torch.float64)
    here().add_up(sums)
    loss, cosine = sums.tolist()
    measured = {"eval_loss": loss}
    return measured | ({"eval_cosine": cosine / len(rows)} if with_cosine else {})
