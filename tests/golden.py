"""Artifacts of today's formats, kept as files: `python -m tests.golden` makes them again.

What is in them is written down beside them by the reader that knows docs/formats.md alone. They are
made anew only with a new version of a format: those of the old one then say what was promised.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from kdpipe.stages.cache_teacher import cache_teacher
from kdpipe.stages.tokenize_corpus import tokenize
from kdpipe.stages.train_student import train
from tests.pieces import new_project, sentences, write_yaml
from tests.reader import decode, read_blocks, read_manifest, read_safetensors
from tests.tiny import tiny_teacher_folder

FOLDER = Path(__file__).parent / "golden"
EXPECTED = FOLDER / "expected.json"
KINDS = {"corpus": "corpora", "cache": "caches", "student": "students"}
STORAGES = ("fp32", "fp16", "bf16", "int8")


def sections() -> dict[str, Any]:
    """One corpus, a cache with every storage type, and a student."""
    targets = [{"kind": "embedding", "storage": "fp32"}]
    targets += [
        {"kind": "hidden", "layers": [layer], "storage": storage}
        for layer, storage in enumerate(STORAGES[1:])
    ]
    return {
        "caches": {
            "said": {"corpus": "text", "teacher": "tiny", "dtype": "fp32", "targets": targets}
        },
        "students": {
            "s": {
                "caches": ["said"],
                "model": {"kind": "teacher_layers", "layers": [2]},
                "objectives": [{"kind": "hidden", "layers": {1: 1}}],
                "train": {"tokens_per_batch": 256, "bf16": False, "max_steps": 2},
            }
        },
    }


def expected(root: Path) -> dict[str, Any]:
    """What is in the artifacts below `root`, as another reader than kdpipe's sees it."""
    cache, _ = read_manifest(root / "cache")
    blocks = [column for block in read_blocks(root / "corpus") for column in [block.to_pydict()]]
    shards = {}
    for number, file in enumerate(cache["files"]):
        question = cache["facts"]["questions"][number % len(cache["facts"]["questions"])]
        tensors, _ = read_safetensors(root / "cache" / file["name"])
        shards[file["name"]] = decode(tensors, question["storage"])[:3].tolist()
    weights, _ = read_safetensors(root / "student" / "model.safetensors")
    return {
        "digests": {kind: read_manifest(root / kind)[1] for kind in KINDS},
        "ids": [ids for block in blocks for ids in block["input_ids"]],
        "held_out": [one for block in blocks for one in block["held_out"]],
        "shards": shards,
        "weights": {name: float(values.sum()) for name, values in sorted(weights.items())},
    }


def make(root: Path) -> None:
    """Make all artifacts in `root`, the current folder."""
    tiny_teacher_folder(root / "teacher", layers=2, width=8)
    place = new_project(root, sentences(8), **sections())
    path = write_yaml(root / "pipeline.yaml", json.dumps(place.pipeline.identity()))
    tokenize(path.relative_to(root))
    cache_teacher(path.relative_to(root), device="cpu")
    train(path.relative_to(root), device="cpu")


def main() -> int:
    """Put artifacts of now in the place of those that are kept."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make(Path(folder))
        for kind, plural in KINDS.items():
            (made,) = Path("artifacts", plural).iterdir()
            shutil.copytree(made, FOLDER / kind)
    EXPECTED.write_text(json.dumps(expected(FOLDER), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
