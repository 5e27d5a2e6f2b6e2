"""What it costs to put a few new rows anywhere into a corpus whose teacher has spoken.

    python -m benchmarks.new_rows [--rows 6000] [--share 0.01] [--repetitions 3] [FILE ...]

A corpus is tokenised and cached; then new rows come in at random places, and both are done again,
beside a full recompute of the larger corpus. Rows that the teacher reads are counted in its forward
passes, with those that introduce it. The *limit* is the forward passes of the new rows alone.
"""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.kit import Figure, Size, Work, in_turns, report, times_as_fast
from benchmarks.scene import cache, planned, texts_of, tokenize
from kdpipe.activations import Tokens
from kdpipe.batches import by_length
from kdpipe.device import pass_overhead, pick_device, pick_dtype
from kdpipe.encoder import Encoder, keep_in, observe
from kdpipe.parts import EMBEDDING
from kdpipe.progress import set_quiet
from kdpipe.project import Project
from kdpipe.store import Store
from kdpipe.streams import streams

TOKENIZE, NEW, FULL = "tokenize, all rows", "cache-teacher, new rows", "cache-teacher, all rows"
LIMIT = "limit: the forward passes of new rows"
_BUDGET = 2048
"""Padded tokens in a pass, as cache-teacher has them on a CPU."""


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        bench, new = prepare(Path(folder), options)
        works: dict[str, Work] = {
            TOKENIZE: bench.tokenize,
            NEW: lambda: bench.read.append(bench.cache()),
            FULL: lambda: bench.full.append(bench.cache(Store(bench.now.root / "empty"))),
            LIMIT: passes_of(bench.encoder, bench.now, new),
        }
        seconds = in_turns(works, options.repetitions, warm=False)
        facts = bench.now.corpus("c").facts
    seconds_share = 1 / times_as_fast(seconds, NEW, FULL)
    share = bench.read[-1] / bench.full[-1]
    figures = [
        Figure("rows that the teacher reads", share, most=0.03, unit="of 1"),
        Figure("seconds of cache-teacher", seconds_share, most=0.03, unit="of 1"),
        Figure("cache-teacher, new rows, of its limit", times_as_fast(seconds, NEW, LIMIT)),
    ]
    sizes = {"rows": facts.rows, "new rows": len(new), "blocks": len(facts.blocks)}
    sizes |= {"rows read": bench.read[-1], "rows read for all": bench.full[-1]}
    sizes |= {"tokens": facts.tokens, "threads": torch.get_num_threads()}
    per = dict.fromkeys((TOKENIZE, FULL), Size(facts.tokens, "tokens"))
    report("new_rows", seconds, figures, sizes=sizes, per=per)


@dataclass
class Bench:
    """A teacher that counts the rows it reads, and a project to be changed for each round."""

    encoder: Encoder
    identity: str
    now: Project
    coming: Iterator[Project]
    read: list[int] = field(default_factory=list)
    full: list[int] = field(default_factory=list)

    def tokenize(self) -> None:
        """Text to Arrow, in the next copy."""
        self.now = next(self.coming)
        tokenize(self.now)

    def cache(self, store: Store | None = None) -> int:
        """Arrow to shards, maybe in another store; how many rows went through the teacher."""
        rows: list[int] = []

        def count(module: Any, arguments: Any, named: dict[str, Any]) -> None:
            rows.append(len(named["input_ids"]))

        def load() -> Encoder:
            # From memory: that it is loaded from the disk is no part of the teacher's work.
            encoder = copy.deepcopy(self.encoder)
            encoder.base.register_forward_pre_hook(count, with_kwargs=True)
            return encoder

        cache(self.now, identity=self.identity, load=load, store=store)
        return sum(rows)


def prepare(folder: Path, options: argparse.Namespace) -> tuple[Bench, list[str]]:
    """A cached corpus in as many copies as there are rounds, with new rows in; the new ones."""
    (folder / "all").mkdir()
    whole = planned(folder / "all", options.rows, files=options.files)
    texts = [*dict.fromkeys(" ".join(text.split()) for text in texts_of(whole))]
    count = max(1, round(options.share * len(texts)))
    chosen = set(np.random.default_rng(0).choice(len(texts), count, replace=False).tolist())
    first = project_in(folder / "before", [t for i, t in enumerate(texts) if i not in chosen])
    teacher = first.teacher("t")
    bench = Bench(teacher.load(), teacher.identity, first, iter([first]))
    bench.tokenize()
    bench.cache()
    copies = []
    for number in range(options.repetitions):
        # Files are never changed in place, so that links are as good as copies.
        shutil.copytree(first.root, folder / f"{number}", copy_function=os.link)
        copies.append(project_in(folder / f"{number}", texts))
    bench.coming = iter(copies)
    return bench, [texts[index] for index in sorted(chosen)]


def project_in(folder: Path, texts: list[str]) -> Project:
    """A project whose corpus is these texts."""
    folder.mkdir(exist_ok=True)
    for name in ("text.txt", "bench.yaml"):
        (folder / name).unlink(missing_ok=True)
    (folder / "text.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return planned(folder, len(texts), files=[str(folder / "text.txt")])


def passes_of(encoder: Encoder, project: Project, texts: list[str]) -> Work:
    """The forward passes of some texts, as kdpipe makes them."""
    reading, device = project.reading("c"), pick_device("cpu")
    rows = Tokens.of(reading.tokenizer.encode(texts, reading.max_seq_length), 0)
    plan = by_length(rows.lengths.numpy(), _BUDGET, pass_overhead(device))
    ready, dtype = (
        [rows.take(torch.from_numpy(batch)) for batch in plan],
        pick_dtype("auto", device),
    )
    kept = copy.deepcopy(encoder)
    if dtype != "fp32":
        keep_in(kept, dtype)

    def work() -> None:
        with streams(device) as pool:
            list(pool.map(lambda one: observe(kept, one, frozenset({EMBEDDING}), dtype), ready))

    return work


if __name__ == "__main__":
    main()
