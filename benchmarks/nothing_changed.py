"""How soon it is said that nothing has changed, of a cache of 10,000 shards, a terabyte in all.

    python -m benchmarks.nothing_changed [--shards 10000] [--repetitions 5]

Manifests are real, shards and blocks are sparse files of the right size. Works are processes of
their own; the *limits* are what Python and DVC take to do nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.kit import Figure, in_turns, report
from benchmarks.scene import EMBEDDINGS, asking, kdpipe, made_cache, planned, run, tokenize
from kdpipe import artifact, cache, dvc, io
from kdpipe.progress import set_quiet
from kdpipe.project import Project

OURS, DVC = "kdpipe cache-teacher, nothing changed", "dvc repro, nothing changed"
PYTHON, DVC_LIMIT = "limit: python -c pass", "limit: dvc --version"
_DVC = [sys.executable, "-P", "-m", "dvc"]
_BYTES = 100_000_000
"""Of a shard."""
_ROWS, _TOKENS = 1_000, 26_000
"""Of a block."""


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        project = planned(root, 100, caches={"said": {**EMBEDDINGS, "dtype": "fp32"}})
        enlarge(project, options.shards)
        file, repro = str(project.file), [*_DVC, "repro", "-q"]
        stages = dvc.dvc_yaml(project.pipeline, root / project.file, root)
        (root / dvc.FILE).write_text(stages, encoding="utf-8")
        for words in (["init", "-q", "--no-scm"], ["commit", "-q", "-f"]):
            run([*_DVC, *words], root)
        before = manifests(project)
        works = {
            OURS: lambda: run(kdpipe("cache-teacher", file), root),
            DVC: lambda: run(repro, root),
            PYTHON: lambda: run([sys.executable, "-c", "pass"], root),
            DVC_LIMIT: lambda: run([*_DVC, "--version"], root),
        }
        seconds = in_turns(works, options.repetitions)
        assert manifests(project) == before, "something was made again"
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    figures = [
        Figure(OURS, middle[OURS], most=1.0, unit="s"),
        Figure(DVC, middle[DVC], most=2.0, unit="s"),
        Figure("kdpipe beyond its limit", middle[OURS] - middle[PYTHON], unit="s"),
        Figure("DVC beyond its limit", middle[DVC] - middle[DVC_LIMIT], unit="s"),
    ]
    sizes = {"shards": options.shards, "bytes": options.shards * _BYTES}
    report("nothing_changed", seconds, figures, sizes=sizes)


def manifests(project: Project) -> list[bytes]:
    """Of the corpus and of the cache."""
    folders = (project.corpus_folder("c"), project.cache_folder("said"))
    return [(folder / artifact.MANIFEST).read_bytes() for folder in folders]


def enlarge(project: Project, count: int) -> None:
    """Make a small corpus and its cache, and of each a large one with sparse files."""
    tokenize(project)
    small = made_cache(project)
    folder = project.corpus_folder("c")
    blocks = [
        {
            "name": f"block-{number:016x}.arrow",
            "first_row": number * _ROWS,
            "rows": _ROWS,
            "tokens": _TOKENS,
            "tokens_digest": f"{number:064x}",
        }
        for number in range(count)
    ]
    facts = small.corpus.facts.identity() | {"blocks": blocks}
    facts |= {"rows": count * _ROWS, "tokens": count * _TOKENS, "held_out": count}
    files = tuple(sparse(folder, str(block["name"])) for block in blocks)
    manifest = small.corpus.manifest.model_copy(update={"facts": facts, "files": files})
    digest = artifact.finish(folder, manifest)
    questions, folder = asking(project), project.cache_folder("said")
    names = [
        cache.name_of(questions.full(block, question), question)
        for block in questions.corpus.facts.blocks
        for question in questions.questions
    ]
    update = {
        "facts": small.manifest.facts | {"rows": count * _ROWS},
        "inputs": small.manifest.inputs | {"corpus": digest},
        "files": tuple(sparse(folder, name) for name in names),
    }
    artifact.finish(folder, small.manifest.model_copy(update=update))


def sparse(folder: Path, name: str) -> artifact.Part:
    """A file of the right size that takes no room."""
    path = folder / name
    path.touch()
    os.truncate(path, _BYTES)
    return artifact.Part(name=name, bytes=_BYTES, digest=io.digest_bytes(name.encode()))


if __name__ == "__main__":
    main()
