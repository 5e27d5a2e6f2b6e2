"""A project from texts that were made to a student, and manifests that a forger made fit it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kdpipe import io, records
from kdpipe.verify import verify
from tests import ends
from tests.ends import command, edit

CORPUS, CACHE = Path("artifacts/corpora/text"), Path("artifacts/caches/said")
STUDENT, TEXTS = Path("artifacts/students/small"), Path("artifacts/texts/noisy")
ALL = [TEXTS, CORPUS, CACHE, STUDENT]
AUGMENTATION = """\
augmentations:
  noisy:
    sources: [{kind: files, files: [text.txt]}]
    methods: [{kind: perturb, steps: [{kind: deleting}]}]
corpora:
"""
TEXT, TOKENIZE = "run 'kdpipe augment'", "run 'kdpipe tokenize'"
TEACHER = "run 'kdpipe cache-teacher' with --verify, which computes it again"
TRAIN = "delete it, then run 'kdpipe train'"
REMEDY = {TEXTS: TEXT, CORPUS: TOKENIZE, CACHE: TEACHER, STUDENT: TRAIN}


def whole_project(root: Path) -> Iterator[Path]:
    """Make all of it in `root`."""
    for made in ends.made_project(root, tokens_per_block=1024):
        edit("corpora:\n", AUGMENTATION)
        edit("files: [text.txt]}]\n    tokenizer", f"files: [text.txt, {TEXTS}]}}]\n    tokenizer")
        edit("{kind: embedding, storage: fp32}", "{kind: embedding, storage: int8}")
        edit("max_steps: 40", "max_steps: 4")
        for stage in ("augment", "tokenize", "cache-teacher", "train"):
            command([stage, "pipeline.yaml"])
        yield made


def found(*paths: Path) -> dict[Path, list[str]]:
    """The problems of each artifact that has some."""
    return {one.folder: one.problems for one in verify(paths or [Path()]) if one.problems}


def first(folder: Path) -> Path:
    """The first part of an artifact."""
    part = {STUDENT: "model.safetensors"}.get(folder) or record_of(folder)["files"][0]["name"]
    return folder / part


def write(path: Path, data: bytes) -> None:
    """A file of its own, linked with none."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def record_of(folder: Path) -> dict[str, Any]:
    """The manifest, without its digest."""
    return records.read_sealed(folder / "manifest.json")


def seal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda record: None) -> None:
    """Change a manifest, and let it fit the files that are there, as a forger would."""
    record = record_of(folder)
    change(record)
    for part in record["files"]:
        path = folder / part["name"]
        if path.is_file():
            algorithm = part["digest"].partition(":")[0]
            part |= {"bytes": path.stat().st_size, "digest": io.digest_file(path, algorithm)}
    write(folder / "manifest.json", records.seal(json.dumps(record).encode()))


def alone(folder: Path) -> list[str]:
    """The problems in one folder, seen from outside any project: nothing but itself."""
    other = Path("alone") / folder.name
    shutil.rmtree("alone", ignore_errors=True)
    shutil.copytree(folder, other)
    return [line.replace(str(other), str(folder)) for line in found(other).get(other, [])]
