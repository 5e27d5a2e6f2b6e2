"""Who is measured: the teacher, the student before training, and the student as it was saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdpipe.activations import Tokens
from kdpipe.cache import Cache
from kdpipe.corpus import Corpus
from kdpipe.device import pick_device, pick_dtype
from kdpipe.encoder import Encoder
from kdpipe.errors import ArtifactError
from kdpipe.job import untrained
from kdpipe.load import load_encoder
from kdpipe.modules import head_of
from kdpipe.parts import EMBEDDING
from kdpipe.project import Project
from kdpipe.tasks.subject import HeldOut, Subject

_MOST_ROWS = 20_000


def subjects(project: Project, name: str, corpus: Corpus, device: str) -> list[Subject]:
    """Teacher, untrained and student, in this order, all on one device and in one dtype."""
    spec = project.pipeline.students[name]
    teacher = project.teacher(project.pipeline.caches[spec.caches[0]].teacher)
    folder = project.student_folder(name)
    before, tokenizer = untrained(project, name)
    where = pick_device(device)

    def subject(title: str, encoder: Encoder, place: Path | None = None) -> Subject:
        return Subject(
            name=title,
            encoder=encoder.to(where).eval(),
            tokenizer=tokenizer,
            max_seq_length=corpus.facts.max_seq_length,
            prompt=corpus.facts.prompt,
            dtype=pick_dtype("auto", where),
            folder=place,
        )

    return [
        subject(teacher.name, teacher.load(), teacher.folder),
        subject(f"{name}, untrained", before),
        subject(name, load_encoder(folder, head_of(folder)), folder),
    ]


def held_out(corpus: Corpus, cache: Cache) -> HeldOut:
    """Rows that no student trained on, with the teacher's embeddings of them from the cache.

    Raises:
        ArtifactError: the corpus holds nothing out, or the cache has no embeddings.
    """
    rows = np.flatnonzero(corpus.held_out)[:_MOST_ROWS]
    if not len(rows):
        raise ArtifactError(f"{corpus.folder} holds no rows out: set 'validation' above 0")
    if EMBEDDING not in cache.provides:
        raise ArtifactError(
            f"{cache.folder} has no embeddings to compare with: add a target of kind: embedding"
        )
    tokens = Tokens.of(corpus.gather(rows), corpus.facts.prompt_tokens)
    return HeldOut(tokens, cache.read(rows, frozenset({EMBEDDING}))[EMBEDDING].numpy())
