"""How fast the teacher's pass is beside `SentenceTransformer.encode` and loops around a teacher.

    python -m benchmarks.cache_teacher [--rows 6000] [--repetitions 3] [FILE ...]

All get the same texts (of the files, else of the standard library), have the teacher in memory
already, and give all that they compute: kdpipe from Arrow to shards on disk, digests and receipts
included. A *limit* is the same forward pass on ready, length-sorted batches, several at a time as
kdpipe runs them, with nothing around it. Two loops stand for what others do: the one in Langformers
reads rows in the order given, tokenises them one by one and pads all to 128 tokens; the one in
sentence-transformers' example maps `encode` over a thousand rows at a time and keeps lists of
numbers in Arrow. Everything has been done once, with a few rows, before it is measured.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from benchmarks.kit import Figure, Size, Work, in_turns, report, times_as_fast
from benchmarks.scene import EMBEDDINGS, again, asking, cache, scene, texts_of, tokenize
from kdpipe import passes
from kdpipe.activations import Tokens
from kdpipe.device import Dtype, pick_device, pick_dtype
from kdpipe.encoder import Encoder, keep_in, observe
from kdpipe.parts import EMBEDDING
from kdpipe.progress import set_quiet
from kdpipe.project import Project
from kdpipe.questions import missing
from kdpipe.store import Store
from kdpipe.streams import streams

ENCODE = "SentenceTransformer.encode, its defaults (fp32)"
ENCODE_BF16 = "SentenceTransformer.encode under bf16 autocast"
MAPPED = "encode mapped over 1,000 rows at a time, as lists to Arrow"
PADDED = "padded loop of Langformers, fp32, on one row of 16"
DTYPES = ("fp32", "auto", "int8")
OURS = {name: f"kdpipe cache-teacher, dtype {name}" for name in DTYPES}
LIMIT = {name: f"limit: the forward passes, {name}" for name in DTYPES}
TOKENIZE = "kdpipe tokenize"
_FEW = 200
"""Rows of the first time."""
_STEP = 16
_LENGTH = 128
"""Of Langformers' documented student: tokens that each row is padded to, and rows in a batch."""


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as folder:
        in_turns(prepare(Path(few), options.files, _FEW).works(), 1, warm=False)
        bench = prepare(Path(folder), options.files, options.rows)
        seconds = in_turns(bench.works(), options.repetitions, warm=False)
        facts, dtype = bench.project.corpus("c").facts, bench.dtypes["auto"]
    scale = facts.rows / len(bench.some)

    def faster(one: str, other: str) -> float:
        return times_as_fast(seconds, one, other)

    # What is to be reached is said of processors that multiply in bf16.
    least = {"encode": 4.5, "bf16": 1.7, "padded": 16.0} if dtype == "bf16" else {}
    auto, single = OURS["auto"], OURS["fp32"]
    figures = [
        Figure("auto, of its limit", faster(auto, LIMIT["auto"]), 0.95),
        Figure("fp32, of its limit", faster(single, LIMIT["fp32"]), 0.95),
        Figure("auto, beside encode at its defaults", faster(auto, ENCODE), least.get("encode")),
        Figure("auto, beside encode given bf16", faster(auto, ENCODE_BF16), least.get("bf16")),
        Figure("fp32, beside encode at its defaults", faster(single, ENCODE), 1.5),
        Figure("auto, beside the padded loop", scale * faster(auto, PADDED), least.get("padded")),
        Figure("fp32, beside the padded loop", scale * faster(single, PADDED)),
        Figure("auto, beside mapped encode", faster(auto, MAPPED)),
        Figure("int8, of its limit", faster(OURS["int8"], LIMIT["int8"]), 0.95),
        Figure("int8, beside encode at its defaults", faster(OURS["int8"], ENCODE), 6.0),
    ]
    sizes = {"rows": facts.rows, "tokens": facts.tokens, "threads": torch.get_num_threads()}
    sizes |= {"padded rows": len(bench.some)}
    tokens = dict.fromkeys(seconds, Size(facts.tokens, "tokens"))
    tokens[PADDED] = Size(round(facts.tokens / scale), "tokens")
    report("cache_teacher", seconds, figures, sizes={**sizes, "auto": dtype}, per=tokens)


@dataclass(frozen=True)
class Bench:
    """One corpus, and its teacher as each of the works has it."""

    project: Project
    identity: str
    dtypes: dict[str, Dtype]
    encoders: dict[str, Encoder]
    peer: SentenceTransformer
    model: Any
    tokenizer: Any
    texts: list[str]

    @property
    def some(self) -> list[str]:
        """The rows of the work that would take too long with all."""
        return self.texts[::_STEP]

    def works(self) -> dict[str, Work]:
        """What is measured, by the words of the table."""
        loaded, ready = again(self.project.teacher("t").load()), [*self.ready()]
        return {
            ENCODE: lambda: self.encode(bf16=False),
            ENCODE_BF16: lambda: self.encode(bf16=True),
            MAPPED: self.mapped,
            PADDED: self.padded,
            OURS["fp32"]: lambda: self.cache("fp32", loaded),
            OURS["auto"]: lambda: self.cache("auto", loaded),
            OURS["int8"]: lambda: self.cache("int8", loaded),
            LIMIT["fp32"]: lambda: self.forward("fp32", ready),
            LIMIT["auto"]: lambda: self.forward("auto", ready),
            LIMIT["int8"]: lambda: self.forward("int8", ready),
            TOKENIZE: lambda: tokenize(self.project),
        }

    def cache(self, name: str, loaded: Any) -> None:
        """Arrow to shards in a new store."""
        with tempfile.TemporaryDirectory(dir=self.project.root) as root:
            store = Store(Path(root))
            cache(self.project, name, identity=self.identity, load=loaded, store=store)

    def ready(self) -> Iterator[Tokens]:
        """The batches of all blocks."""
        questions = asking(self.project, "auto", self.identity)
        for item in missing(questions, Store(self.project.root / "nothing")):
            rows, batches = passes.plan_block(questions, item, pick_device("cpu"))
            yield from map(rows.take, batches)

    def forward(self, name: str, ready: list[Tokens]) -> None:
        """The forward passes alone."""
        encoder, dtype = self.encoders[name], self.dtypes[name]
        with streams(pick_device("cpu")) as pool:
            list(pool.map(lambda one: observe(encoder, one, frozenset({EMBEDDING}), dtype), ready))

    def encode(self, *, bf16: bool) -> None:
        """Text to vectors in a file, the peer's way."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            vectors = self.peer.encode(self.texts)
        np.save(self.project.root / "vectors.npy", vectors)

    def mapped(self) -> None:
        """Text to a column of lists."""
        schema = pa.schema([("sentence", pa.string()), ("label", pa.list_(pa.float64()))])
        path = str(self.project.root / "mapped.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for first in range(0, len(self.texts), 1000):
                texts = self.texts[first : first + 1000]
                columns = {"sentence": texts, "label": self.peer.encode(texts).tolist()}
                writer.write_table(pa.table(columns, schema))

    def padded(self) -> None:
        """Text to vectors that nobody keeps."""
        for first in range(0, len(self.some), _LENGTH):
            rows = [
                self.tokenizer(
                    text,
                    padding="max_length",
                    truncation=True,
                    max_length=_LENGTH,
                    return_tensors="pt",
                )
                for text in self.some[first : first + _LENGTH]
            ]
            ids, mask = (
                torch.cat([row[name] for row in rows]) for name in ("input_ids", "attention_mask")
            )
            with torch.no_grad():
                states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
                weights = mask[..., None].float()
                (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def prepare(folder: Path, files: list[str], rows: int) -> Bench:
    """Everything that is not timed."""
    caches = {dtype: {**EMBEDDINGS, "dtype": dtype} for dtype in DTYPES}
    project = scene(folder, rows, files=files, caches=caches)
    teacher, device = project.teacher("t"), pick_device("cpu")
    dtypes = {name: pick_dtype(name, device) for name in caches}
    encoders = {name: teacher.load() for name in caches}
    for name, encoder in encoders.items():
        keep_in(encoder, dtypes[name])
    return Bench(
        project,
        teacher.identity,
        dtypes,
        encoders,
        SentenceTransformer(str(teacher.folder), device="cpu"),
        AutoModel.from_pretrained(teacher.folder).eval(),
        AutoTokenizer.from_pretrained(teacher.folder),
        texts_of(project),
    )


if __name__ == "__main__":
    main()
