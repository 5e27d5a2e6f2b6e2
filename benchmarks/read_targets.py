"""How fast targets come out of a cache in random order, ready for a batch.

    python -m benchmarks.read_targets [--rows 60000] [--token-rows 6000] [--repetitions 5]

Rows are asked for as training does: batches of a shuffled plan of the whole epoch, each by one
`Cache.read`, which gives fp32 in one piece. Digests are checked once, before it is measured. The
*limit* gathers the same vectors from one memory-mapped array in the order of the corpus, and makes
them fp32. Teachers are random numbers: what is in a vector does not matter here.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from benchmarks.kit import Figure, Size, Work, in_turns, report, times_as_fast
from benchmarks.scene import made_texts, planned, tokenize
from kdpipe import import_targets
from kdpipe.batches import Rows, epoch_plan
from kdpipe.cache import Cache
from kdpipe.importing import Importing, identity_of
from kdpipe.parts import EMBEDDING, Needs, Part
from kdpipe.progress import set_quiet
from kdpipe.project import Project
from kdpipe.questions import missing
from kdpipe.teacher import finish
from kdpipe.versions import CACHE_TEACHER

_TOKENS_PER_BATCH = 4096
Starts = npt.NDArray[np.int64]


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--token-rows", type=int, default=6_000)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    set_quiet(True)
    works, per, pairs = dict[str, Work](), dict[str, Size](), list[tuple[str, str, float, str]]()
    with tempfile.TemporaryDirectory() as short, tempfile.TemporaryDirectory() as real:
        text = str(made_texts(Path(short) / "text.txt", options.rows, words=24))
        by_row = project_of(Path(short), options.rows, [text], {"w384": 384, "w768": 768})
        by_token = project_of(Path(real), options.token_rows, [], {"hidden": 384, "qkv": 384})
        for project, names in ((by_row, ("w384", "w768")), (by_token, ("hidden", "qkv"))):
            for name in names:
                made = opened(project, name)
                batches = plan(made)
                rows = sum(map(len, batches))
                size = Size(rows, "rows")
                if name in {"hidden", "qkv"}:
                    size = Size(sum(file.bytes for file in made.manifest.files), "bytes")
                ours, limit = f"{name}: Cache.read", f"{name}: limit: memory-mapped gather"
                works[ours] = reader(made, batches)
                works[limit] = gatherer(made, batches, project.root, name)
                per |= {ours: size, limit: size}
                pairs.append((ours, limit, 1e6 if size.unit == "rows" else 2e9, size.unit))
        seconds = in_turns(works, options.repetitions)
    figures = []
    for ours, limit, least, unit in pairs:
        rate = per[ours].amount / float(np.median(seconds[ours]))
        figures.append(Figure(ours, rate, least, unit=f"{unit}/s"))
        figures.append(Figure(f"{ours}, of its limit", times_as_fast(seconds, ours, limit)))
    sizes = {"rows": options.rows, "rows with tokens": options.token_rows}
    sizes |= {"tokens a batch": _TOKENS_PER_BATCH, "threads": torch.get_num_threads()}
    report("read_targets", seconds, figures, sizes=sizes, per=per)


def project_of(folder: Path, rows: int, files: list[str], widths: Mapping[str, int]) -> Project:
    """A corpus, and files of random numbers for its rows or tokens, of which caches are made."""
    caches = {
        name: {"corpus": "c", "files": [_imported(name, part) for part in _parts(name)]}
        for name in widths
    }
    project = planned(folder, rows, files=files, caches=caches)
    tokenize(project)
    corpus, numbers = project.corpus("c"), np.random.default_rng(0)
    for name, width in widths.items():
        per_token = name in {"hidden", "qkv"}
        vectors = corpus.facts.tokens if per_token else corpus.facts.rows
        for part in _parts(name):
            values = numbers.standard_normal((vectors, width), np.float32).astype(np.float16)
            tensors: dict[str, npt.NDArray[Any]] = {"values": values}
            if per_token:
                tensors["lengths"] = corpus.lengths.astype(np.int64)
            save_file(tensors, folder / f"{name}-{part.name}.safetensors")
            np.save(folder / f"{name}-{part.name}.npy", values)
    return project


def _parts(name: str) -> list[Part]:
    three = [Part("query", 1), Part("key", 1), Part("value", 1)]
    several = {"hidden": [Part("hidden", 1)], "qkv": three}
    return several.get(name, [EMBEDDING])


def _imported(name: str, part: Part) -> dict[str, Any]:
    file = {"part": part.name, "file": f"{name}-{part.name}.safetensors"}
    return file if part.layer is None else {**file, "layer": part.layer}


def opened(project: Project, name: str) -> Cache:
    """A cache of files, made and opened."""
    corpus, spec = project.corpus("c"), project.pipeline.caches[name]
    asking = Importing(corpus, identity_of(spec, project.root), spec, "fp32")
    import_targets.take_over(asking, missing(asking, project.store), project.store, project.root)
    facts = import_targets.facts(asking, project.store)
    inputs = {"meaning": str(CACHE_TEACHER), "corpus": corpus.digest, "teacher": asking.teacher}
    finish(asking, facts, project.store, project.cache_folder(name), inputs)
    return project.cache(name, corpus)


def plan(cache: Cache) -> list[Rows]:
    """The batches of an epoch."""
    rows, lengths = np.arange(cache.corpus.facts.rows), cache.corpus.lengths
    return epoch_plan(rows, lengths, _TOKENS_PER_BATCH, seed=0, epoch=0)


def reader(cache: Cache, batches: list[Rows]) -> Work:
    """Everything that a cache has, batch by batch."""
    needs: Needs = cache.provides

    def read() -> None:
        for rows in batches:
            cache.read(rows, needs)

    return read


def gatherer(cache: Cache, batches: list[Rows], folder: Path, name: str) -> Work:
    """The same vectors from one array for each part; where they are is known beforehand."""
    arrays = [np.load(folder / f"{name}-{part.name}.npy", mmap_mode="r") for part in _parts(name)]
    starts = np.concatenate([[0], np.cumsum(cache.corpus.lengths, dtype=np.int64)])
    per_token = _parts(name)[0].per_token
    places = [_places(rows, starts) if per_token else rows for rows in batches]

    def gather() -> None:
        for place in places:
            for array in arrays:
                array[place].astype(np.float32)

    return gather


def _places(rows: Rows, starts: Starts) -> Starts:
    found: Starts = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in rows])
    return found


if __name__ == "__main__":
    main()
