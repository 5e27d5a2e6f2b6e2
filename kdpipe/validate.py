"""How good a student in training is on rows that it does not train on."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from kdpipe.activations import Activations
from kdpipe.batches import Rows, by_length
from kdpipe.device import autocast
from kdpipe.errors import UsageError
from kdpipe.gold import Gold, labelled
from kdpipe.loader import read_batch
from kdpipe.metrics import entities, tag_scheme
from kdpipe.parts import EMBEDDING, Needs
from kdpipe.processes import here
from kdpipe.run import Run
from kdpipe.shares import count_all, share_of
from kdpipe.tasks.tagging import tags_by

_BY_LABELS = {"eval_accuracy", "eval_f1"}
_ONE_CLASS = {"single_label_classification", "token"}
Answer = tuple[list[str], list[str]]
"""What a student says of a row, and what is so: its class, or a tag for each word."""
MOST_DRAWN = 2048
"""Held-out rows that are measured, where the corpus draws them."""


def rows_to_measure(run: Run) -> Rows:
    """Held-out rows that all teachers have read: all where sources name them, else the first."""
    rows = np.flatnonzero(run.corpus.held_out & run.known)
    return rows if run.corpus.manifest.spec.get("validation_sources") else rows[:MOST_DRAWN]


def check(run: Run, name: str) -> None:
    """Refuse a metric for the best model that student `name` has not.

    Raises:
        UsageError: its head, the widths of its vectors, or no labels of held-out rows.
        ArtifactError: a label that is none of its classes.
    """
    metric, dims = run.spec.metric_for_best_model, run.student.dims
    asked = f"student {name!r}: metric_for_best_model: {metric} needs"
    if metric == "eval_cosine" and not run.measures_cosine:
        raise UsageError(
            f"{asked} a student without a head, and embeddings in its first cache, as wide as its"
            " own: use eval_loss"
        )
    if metric not in _BY_LABELS:
        return
    if dims.problem not in _ONE_CLASS:
        raise UsageError(f"{asked} a head that gives each row or word one class: use eval_loss")
    if metric == "eval_f1" and (dims.problem != "token" or tag_scheme(dims.classes) is None):
        raise UsageError(
            f"{asked} tags of words that mark entities, such as B-X, I-X and O: use eval_accuracy"
        )
    rows = rows_to_measure(run)
    gold = Gold(dims.problem, dims.classes)
    if not labelled(gold.of(run.corpus.labels(rows), run.corpus.gather(rows))).any():
        raise UsageError(
            f"{asked} labels of held-out rows that its teachers have read: set label_column and"
            " 'validation_sources' of the corpus, or use eval_loss"
        )


def measure(run: Run) -> dict[str, float]:
    """`eval_loss` (weights as at the end of training) and `eval_cosine` on held-out rows.

    Where that is to choose the best model also `eval_accuracy` or `eval_f1`.
    """
    rows = rows_to_measure(run)
    if not len(rows):
        return {}
    needs = dict(run.terms.needs_of_teachers())
    with_cosine = run.measures_cosine
    if with_cosine:
        first = next(iter(run.caches))
        needs[first] = needs.get(first, Needs()) | {EMBEDDING}
    of_student = run.terms.needs_of_student() | ({EMBEDDING} if with_cosine else set())
    metric = run.spec.metric_for_best_model
    by_labels = metric in _BY_LABELS
    of_student |= {run.student.voice} if by_labels else set()
    batches = by_length(run.corpus.lengths[rows], run.spec.tokens_per_batch)
    plan = [rows[batch] for batch in here().mine(batches)]
    # Labels and tokens alone are read first: they say what each batch is a share of.
    whole = count_all(read_batch(run.corpus, {}, {}, some, run.gold) for some in plan)
    loss = cosine = right = every = 0.0
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
        if by_labels:
            some_right, some = _right(metric, _answers(run, batch_rows, said))
            right, every = right + some_right, every + some
    sums = torch.tensor([loss, cosine, right, every], dtype=torch.float64)
    here().add_up(sums)
    loss, cosine, right, every = sums.tolist()
    measured = {"eval_loss": loss}
    measured |= {"eval_cosine": cosine / len(rows)} if with_cosine else {}
    return measured | ({metric: right / max(every, 1)} if by_labels else {})


def _right(metric: str, answers: list[Answer]) -> tuple[int, int]:
    """What is right, and of how much: the metric is the quotient of their sums over all batches.

    Of rows or words: those that are right, and all. Of entities: twice those that are right, and
    those that were found and those that are there together.
    """
    if metric == "eval_f1":
        found = [({*entities(mine)}, {*entities(theirs)}) for mine, theirs in answers]
        return 2 * sum(len(a & b) for a, b in found), sum(len(a) + len(b) for a, b in found)
    same = [a == b for mine, theirs in answers for a, b in zip(mine, theirs, strict=True)]
    return sum(same), len(same)


def _answers(run: Run, rows: Rows, said: Activations) -> list[Answer]:
    """Of the rows that have a label, as `kdpipe evaluate` has them: a word not read is tagged O."""
    encoder, labels = run.student, run.corpus.labels(rows)
    logits = said[encoder.voice].float().cpu().numpy()
    if encoder.answers == "sequence":
        classes = encoder.dims.classes
        mine = [[classes[place]] for place in logits.argmax(1).tolist()]
        labels = [None if label is None else [str(label)] for label in labels]
    else:
        words = [len(some) for some in run.corpus.words(rows)]
        mine = tags_by(encoder, logits, run.corpus.gather(rows), words)
    return [pair for pair in zip(mine, labels, strict=True) if pair[1] is not None]
