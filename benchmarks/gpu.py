"""One CUDA GPU: the teacher's pass from Arrow to safetensors, and training from what it said.

    python -m benchmarks.gpu [--tokens 8000000] [--repetitions 3] [--peak TFLOPS] [--device cuda]

Teachers are the size of BERT-base and of MiniLM-L6, of random weights, which are as fast as others;
rows have 26, 128 and 512 tokens on average. The *limit* is the same forward passes on length-sorted
batches that are on the GPU already. The share of the GPU's peak counts matrix products of real
tokens alone. Time outside the GPU is wall time in which no kernel and no copy is at work on it:
torch.profiler says how long they take, in a run of its own, and the measured runs how long all
takes. Numerics are beside the same teacher in fp32 on the CPU. Without CUDA it says so and ends.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from benchmarks import train_from_cache as loops
from benchmarks.kit import Figure, Seconds, Size, Work, in_turns, report, times_as_fast
from benchmarks.scene import EMBEDDINGS, WORDS, again, asking, cache, random_teacher, scene
from kdpipe import job, passes, train
from kdpipe.activations import Tokens
from kdpipe.corpus import Corpus
from kdpipe.device import pick_device, pick_dtype
from kdpipe.encoder import Encoder, embed, keep_in, observe
from kdpipe.loader import read_batch
from kdpipe.parts import EMBEDDING
from kdpipe.progress import set_quiet
from kdpipe.project import Project
from kdpipe.questions import missing
from kdpipe.run import Run
from kdpipe.store import Store


class Shape(NamedTuple):
    """Of a teacher."""

    layers: int
    width: int
    heads: int


SHAPES = {"BERT-base": Shape(12, 768, 12), "MiniLM-L6": Shape(6, 384, 12)}
MEANS = (26, 128, 512)
PEAKS = {
    **{"B200": 2250.0, "H200": 989.0, "GH200": 989.0, "H100 PCIe": 756.0, "H100": 989.0},
    **{"A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0, "RTX 4090": 165.0},
}
"""Dense bf16 TFLOP/s by a part of the name that CUDA gives, the first that fits."""
_LONGEST = 512
_SAMPLE = 256
STUDENT = {
    "caches": ["said"],
    "model": {"kind": "teacher_layers", "layers": [1, 3, 6]},
    "objectives": [{"kind": "embedding", "loss": "cosine"}],
    "train": {"tokens_per_batch": 32_768},
}


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=8_000_000, help="in a corpus")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="of training")
    parser.add_argument("--peak", type=float, help="bf16 TFLOP/s of this GPU")
    parser.add_argument("--device", default="cuda", help="cpu only shows that all this runs")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu: there is no CUDA device here, nothing is measured")
        return
    set_quiet(True)
    on_gpu = options.device != "cpu"
    gpu = torch.cuda.get_device_name() if on_gpu else "cpu"
    peak = options.peak or next((PEAKS[name] for name in PEAKS if name in gpu), None)
    found, seconds, per = list[Figure](), Seconds(), dict[str, Size]()
    with tempfile.TemporaryDirectory() as folder:
        for (name, shape), mean in itertools.product(SHAPES.items(), MEANS):
            root = Path(folder) / f"{name}-{mean}"
            bench = prepare(root, shape, mean, options.tokens, options.device)
            what = f"{name}, {mean} tokens"
            ours, limit = f"{what}: cache-teacher", f"{what}: limit: the forward passes"
            took = in_turns({ours: bench.cache, limit: bench.forward()}, options.repetitions)
            seconds |= took
            facts = bench.corpus.facts
            per |= dict.fromkeys((ours, limit), Size(facts.tokens, "tokens"))
            middle = statistics.median(took[ours])
            least = 2.5e6 if name == "BERT-base" and "H200" in gpu else None
            found.append(Figure(ours, facts.tokens / middle, least, unit="tokens/s"))
            found.append(Figure(f"{ours}, of its limit", times_as_fast(took, ours, limit), 0.95))
            if peak is not None:
                share = bench.flops(shape) / middle / peak / 1e12
                found.append(Figure(f"{ours}, of the GPU's bf16 peak", share, unit="of 1"))
            if on_gpu:
                outside = 1 - busy_seconds(bench.cache) / middle
                found.append(Figure(f"{ours}, outside the GPU", outside, most=0.05, unit="of 1"))
            found += numerics(bench, what)
            if name == "MiniLM-L6" and mean == MEANS[0]:
                trained, size = training(bench, options.steps, options.repetitions)
                seconds |= trained
                per |= dict.fromkeys(trained, size)
                rate = size.amount / statistics.median(trained[loops.OURS])
                found.append(Figure("training from the cache", rate, unit="tokens/s"))
                for other, aim in ((loops.PLAIN, 0.98), (loops.LIMIT, None)):
                    ratio = times_as_fast(trained, loops.OURS, other)
                    found.append(Figure(f"training, beside: {other}", ratio, aim))
    dtype = pick_dtype("auto", pick_device(options.device))
    sizes = {"gpu": gpu, "tokens": options.tokens, "peak TFLOP/s": peak, "dtype": dtype}
    report("gpu", seconds, found, sizes=sizes, per=per)


@dataclass(frozen=True)
class Bench:
    """A corpus, and a teacher on the GPU."""

    project: Project
    corpus: Corpus
    encoder: Encoder
    identity: str
    device: str

    def cache(self) -> None:
        """Arrow to shards in a new store."""
        with tempfile.TemporaryDirectory(dir=self.project.root) as root:
            cache(
                self.project,
                identity=self.identity,
                load=again(self.encoder),
                store=Store(Path(root)),
                device=self.device,
            )

    def forward(self) -> Work:
        """The forward passes alone."""
        questions = asking(self.project, identity=self.identity, device=self.device)
        device, ready = pick_device(self.device), list[Tokens]()
        for item in missing(questions, Store(self.project.root / "nothing")):
            rows, batches = passes.plan_block(questions, item, device)
            ready += [rows.take(batch).to(device) for batch in batches]
        encoder = again(self.encoder)()
        if questions.dtype != "fp32":
            keep_in(encoder, questions.dtype)

        def work() -> None:
            for tokens in ready:
                observe(encoder, tokens, frozenset({EMBEDDING}), questions.dtype)
            wait(self.device)

        return work

    def flops(self, shape: Shape) -> float:
        """Of the matrix products of one pass over the corpus, of real tokens alone."""
        lengths, width = self.corpus.lengths.astype(np.float64), shape.width
        # A token meets 12 width^2 weights of a layer, and twice the width of each of its row.
        return float(shape.layers * (24 * width**2 * lengths + 4 * width * lengths**2).sum())


def prepare(root: Path, shape: Shape, mean: int, tokens: int, device: str) -> Bench:
    """Everything that is not timed."""
    root.mkdir()
    folder = random_teacher(root / "teacher", **shape._asdict())
    rows, random = max(64, tokens // mean), np.random.default_rng(0)
    # Two tokens of a row are special; rows of 512 on average all are as long as can be.
    drawn = (
        random.lognormal(np.log(mean) - 0.18, 0.6, rows) if mean < _LONGEST else [_LONGEST] * rows
    )
    with (root / "text.txt").open("w", encoding="utf-8") as file:
        for number, length in enumerate(np.clip(drawn, 6, _LONGEST).astype(int)):
            words = [WORDS[place] for place in random.integers(len(WORDS), size=length - 2)]
            # The first words count, so that no row is like another.
            for place in range(4):
                words[place] = WORDS[number // len(WORDS) ** place % len(WORDS)]
            file.write(" ".join(words) + "\n")
    project = scene(
        root,
        rows,
        files=[str(root / "text.txt")],
        caches={"said": EMBEDDINGS},
        students={"s": STUDENT},
        model={"model": str(folder)},
        max_seq_length=_LONGEST,
    )
    teacher = project.teacher("t")
    encoder = teacher.load().to(pick_device(device))
    return Bench(project, project.corpus("c"), encoder, teacher.identity, device)


def busy_seconds(work: Callable[[], object]) -> float:
    """How long something is at work on the GPU, once."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    on_gpu = (event for event in profiler.events() if event.device_type.name == "CUDA")
    spans = sorted((event.time_range.start, event.time_range.end) for event in on_gpu)
    busy, until = 0.0, 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / 1e6


def numerics(bench: Bench, what: str) -> list[Figure]:
    """How far what is kept is from the same teacher in fp32 on the CPU, on some rows."""
    cache(bench.project, identity=bench.identity, load=again(bench.encoder), device=bench.device)
    rows = np.linspace(0, bench.corpus.facts.rows - 1, _SAMPLE).astype(np.int64)
    kept = bench.project.cache("said", bench.corpus).read(rows, frozenset({EMBEDDING}))[EMBEDDING]
    tokens = Tokens.of(bench.corpus.gather(rows), 0)
    exact = embed(bench.project.teacher("t").load(), tokens, "fp32")
    alike = float(functional.cosine_similarity(kept, exact).min())
    off = float((kept - exact).abs().max() / exact.abs().max())
    return [
        Figure(f"{what}: cosine to fp32 on the CPU, at least", alike, 0.999, unit="of 1"),
        Figure(f"{what}: largest difference, of the largest number", off, unit="of 1"),
    ]


def training(bench: Bench, steps: int, repetitions: int) -> tuple[Seconds, Size]:
    """The loops of `benchmarks.train_from_cache` on the GPU, batches of the plain one there."""
    made = bench.project.cache("said", bench.corpus)

    def student() -> Run:
        return job.prepare(bench.project, "s", bench.corpus, {"said": made}, bench.device).run

    ours, plain, alone = student(), student(), student()
    steps, needs = min(steps, train.steps_per_epoch(ours) - 1), plain.terms.needs_of_teachers()
    ready = [
        read_batch(plain.corpus, plain.caches, needs, group[0], plain.gold).to(plain.device)
        for group in itertools.islice(train.plan(plain, 0), steps)
    ]

    def waited(work: Work) -> Work:
        def whole() -> None:
            work()
            wait(bench.device)

        return whole

    works = {
        loops.PLAIN: waited(lambda: loops.bare(plain, ready)),
        loops.OURS: waited(lambda: loops.from_cache(ours, steps)),
        loops.LIMIT: waited(lambda: loops.student_alone(alone, ready)),
    }
    size = Size(sum(len(batch.tokens.ids) for batch in ready), "tokens")
    return in_turns(works, repetitions), size


def wait(device: str) -> None:
    """Until all that was asked of the GPU is done."""
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
