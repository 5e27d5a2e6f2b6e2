"""What can happen to a file on a disk, seeded, and a project with files of every kind."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kdpipe import artifact, cache, fill_blocks
from kdpipe.corpus import open_corpus
from kdpipe.errors import ArtifactError, KdpipeError
from kdpipe.made_from import open_student
from kdpipe.parts import Part
from kdpipe.project import Project
from kdpipe.stages.cache_teacher import cache_teacher
from kdpipe.stages.tokenize_corpus import tokenize
from kdpipe.stages.train_student import train
from tests.pieces import new_project, sentences, write_yaml
from tests.tiny import tiny_headed_folder

Read = Callable[[], object]
KINDS = {
    "block": ("artifacts/corpora/text/block-*", ""),
    "corpus": ("artifacts/corpora/text/manifest.json", ""),
    "embedding": ("artifacts/caches/said/embedding.fp32-*", "said"),
    "hidden": ("artifacts/caches/said/hidden.1.int8-*", "said"),
    "query": ("artifacts/caches/said/query.2.fp16-*", "said"),
    "logits": ("artifacts/caches/judged/logits.bf16-*", "judged"),
    "cache": ("artifacts/caches/said/manifest.json", ""),
    "weights of a student": ("artifacts/students/s/model.safetensors", "s"),
    "config of a student": ("artifacts/students/s/config.json", "s"),
    "pooling of a student": ("artifacts/students/s/1_Pooling/config.json", "s"),
    "projections of a student": ("artifacts/students/s/projections.safetensors", "s"),
    "tokenizer of a student": ("artifacts/students/s/tokenizer.json", "s"),
    "student": ("artifacts/students/s/manifest.json", "s"),
}
"""What is read before its values are used: which files these are."""
PARTS = {
    "embedding": Part("embedding"),
    "hidden": Part("hidden", 1),
    "query": Part("query", 2),
    "logits": Part("logits"),
}


def make(root: Path) -> None:
    """A corpus of several blocks, two caches and a student in `root`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(fill_blocks, "SMALLEST", 20)
        patch.setattr(fill_blocks, "SPREAD", 250)
        path = _declare(root)
        tokenize(path)
        cache_teacher(path, device="cpu")
        train(path, device="cpu")


def _declare(root: Path) -> Path:
    """The pipeline file, with what it names."""
    caches = {
        "said": {
            "corpus": "text",
            "teacher": "tiny",
            "dtype": "fp32",
            "targets": [
                {"kind": "embedding", "storage": "fp32"},
                {"kind": "hidden", "layers": [1], "storage": "int8"},
                {"kind": "qkv", "layers": [2], "storage": "fp16"},
            ],
        },
        "judged": {
            "corpus": "text",
            "teacher": "judge",
            "dtype": "fp32",
            "targets": [{"kind": "logits", "storage": "bf16"}],
        },
    }
    student = {
        "caches": ["said"],
        "model": {"kind": "teacher_layers", "layers": [1, 4]},
        "objectives": [{"kind": "embedding"}, {"kind": "hidden", "layers": {1: 1}}],
        "train": {"tokens_per_batch": 256, "bf16": False, "max_steps": 4, "save_steps": 2},
    }
    tiny_headed_folder(root / "judge")
    teachers = {"judge": {"model": "judge"}}
    place = new_project(
        root, sentences(60), teachers=teachers, caches=caches, students={"s": student}
    )
    path = write_yaml(root / "pipeline.yaml", json.dumps(place.pipeline.identity()))
    return path.relative_to(root)


def reading(project: Project, kind: str, path: Path) -> Read:
    """How the stages read a file, to the point where its values are used."""
    corpus, name = project.corpus_folder("text"), KINDS[kind][1]
    if kind == "corpus":
        return lambda: open_corpus(corpus)
    if kind == "block":
        number = [file.name for file in _files(corpus)].index(path.name)
        return lambda: open_corpus(corpus).block(number)
    if kind == "cache":
        return lambda: cache.open_cache(project.cache_folder("said"), open_corpus(corpus))
    if kind not in PARTS:
        return lambda: open_student(project, name)
    folder, part = project.cache_folder(name), frozenset({PARTS[kind]})
    opened = cache.open_cache(folder, open_corpus(corpus))
    number = [file.name for file in opened.manifest.files].index(path.name)
    row = opened.corpus.first_rows[number // len(opened.facts.questions)]
    return lambda: cache.open_cache(folder, opened.corpus).read(np.array([row]), part)


def _files(folder: Path) -> tuple[artifact.Part, ...]:
    return open_corpus(folder).manifest.files


@contextlib.contextmanager
def put(path: Path, data: bytes | None) -> Iterator[None]:
    """Other bytes at `path`, in a file of their own, or no file at all."""
    before = path.read_bytes()
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    yield
    path.unlink(missing_ok=True)
    path.write_bytes(before)


def flipped(data: bytes, random: random.Random) -> bytes:
    """One bit is another."""
    bit = random.randrange(8 * len(data))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def zeroed(data: bytes, random: random.Random) -> bytes:
    """A sector of 4 KiB, or of what a small file has, is zeros."""
    size = min(4096, len(data))
    first = random.randrange(0, len(data), size)
    return data[:first] + bytes(len(data[first : first + size])) + data[first + size :]


def cut(data: bytes, random: random.Random) -> bytes:
    """The end is not there."""
    return data[: random.randrange(len(data))]


def longer(data: bytes, random: random.Random) -> bytes:
    """Something comes after the end."""
    return data + random.randbytes(random.randrange(1, 4096))


def refusal(read: Read, path: Path, trial: object) -> str:
    """The one line with which a damaged file is refused: exit code 3, and its name."""
    try:
        read()
    except KdpipeError as error:
        found: KdpipeError | None = error
    else:
        found = None
    assert isinstance(found, ArtifactError), (path, trial, found)
    line = str(found)
    assert "\n" not in line, (trial, line)
    assert path.name in line, (trial, line)
    return line
