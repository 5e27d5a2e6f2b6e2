"""A small project on disk: text, a teacher's folder and a pipeline, made by the library itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdpipe import cache, corpus, versions, write_corpus
from kdpipe.io import write_file
from kdpipe.known_rows import spare
from kdpipe.pipeline import Pipeline
from kdpipe.project import Project
from kdpipe.questions import Asking, missing
from kdpipe.store import Store
from kdpipe.targets import Question
from kdpipe.teacher import answer, facts, finish
from tests.tiny import SENTENCES, tiny_teacher_folder

FILE = "pipeline.yaml"
PIPELINE = """\
corpora:
  text:
    sources: [{{kind: files, files: [text.txt]}}]
    tokenizer: tiny
    max_seq_length: 32
    validation: {validation}
teachers:
  tiny: {{model: teacher}}
caches:
  said:
    corpus: text
    teacher: tiny
    targets: [{targets}]
    dtype: fp32
students:
  small:
    caches: [said]
    model: {{kind: teacher_layers, layers: [1]}}
    objectives: [{{kind: embedding, loss: cosine}}]
    train: {{{train}}}
"""
"""A pipeline file of one student, but for what is to be said of it."""


def sentences(count: int, start: int = 0) -> list[str]:
    """Different sentences of different lengths, always the same."""
    pool = SENTENCES
    made = []
    for number in range(start, start + count):
        words = [
            pool[(number * 7 + step) % len(pool)].rstrip(".") for step in range(number % 4 + 1)
        ]
        made.append(f"{' and '.join(words)} {number}.")
    return made


def write_text(path: Path, lines: list[str]) -> None:
    """One text a line."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def pipeline(**sections: Any) -> Pipeline:
    """A pipeline over text.txt with one teacher; sections replace the defaults' entries."""
    data: dict[str, Any] = {
        "corpora": {
            "text": {
                "sources": [{"kind": "files", "files": ["text.txt"]}],
                "tokenizer": "tiny",
                "max_seq_length": 32,
                "validation": 0.1,
            }
        },
        "teachers": {"tiny": {"model": "teacher"}},
        "caches": {
            "said": {
                "corpus": "text",
                "teacher": "tiny",
                "dtype": "fp32",
                "targets": [
                    {"kind": "embedding", "storage": "fp32"},
                    {"kind": "hidden", "layers": [0, 2], "storage": "fp32"},
                ],
            }
        },
    }
    for name, entries in sections.items():
        data[name] = {**data.get(name, {}), **entries}
    return Pipeline.model_validate(data)


def new_project(root: Path, lines: list[str], **sections: Any) -> Project:
    """A project in the current folder `root`, with text and a teacher; nothing is made yet."""
    write_text(root / "text.txt", lines)
    if not (root / "teacher").is_dir():
        tiny_teacher_folder(root / "teacher", layers=4)
    return Project(Path("pipeline.yaml"), pipeline(**sections), Path())


def begin(root: Path, rows: int, text: str) -> None:
    """The files of a project in `root`, with this pipeline file; nothing is made yet."""
    write_text(root / "text.txt", sentences(rows))
    tiny_teacher_folder(root / "teacher")
    (root / FILE).write_text(text)


def make_corpus(project: Project, name: str = "text") -> corpus.Corpus:
    """Tokenise, and open the result."""
    spec = project.pipeline.corpora[name]
    inputs = {"meaning": str(versions.TOKENIZE)}
    inputs |= write_corpus.source_digests(spec, project.root)
    write_corpus.write_corpus(
        spec, project.corpus_folder(name), project.reading(name), project.root, inputs
    )
    return project.corpus(name)


def asking(project: Project, made: corpus.Corpus, name: str = "said") -> Asking:
    """The questions of a cache."""
    spec = project.pipeline.caches[name]
    return Asking(made, project.teacher(spec.teacher).identity, spec, "fp32")


def make_cache(
    project: Project, made: corpus.Corpus, name: str = "said"
) -> tuple[cache.Cache, int]:
    """Let the teacher speak, and open the result; how many blocks it had to read."""
    questions = asking(project, made, name)
    store = Store(project.store.root)
    todo, known = spare(missing(questions, store), questions, project.cache_folder(name))
    spec = project.pipeline.caches[name]
    teacher = project.teacher(spec.teacher, mlm=spec.asks_mlm)
    answer(questions, todo, store, teacher.load, known)
    inputs = {"meaning": str(versions.CACHE_TEACHER), "corpus": made.digest}
    inputs["teacher"] = questions.teacher
    finish(questions, facts(questions, store), store, project.cache_folder(name), inputs)
    return project.cache(name, made), len(todo)


def write_yaml(path: Path, text: str) -> Path:
    """A pipeline file."""
    write_file(path, text.encode())
    return path


__all__ = ["Question", "asking", "make_cache", "make_corpus", "new_project", "sentences"]
