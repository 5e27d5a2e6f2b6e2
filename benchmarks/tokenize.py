"""How fast text becomes token ids on disk, beside the tokenizer alone and `datasets.map`.

    python -m benchmarks.tokenize [--rows 60000] [--repetitions 5] [--without-peers] [FILE ...]

The texts are lines of one file (those of the files given, else of the standard library; numbered
from the second time on, if there are too few). kdpipe reads it, drops duplicates, tokenises, and
writes Arrow with digests; the *limit* is `encode_batch_fast` on the same texts in the same chunks,
which are in memory, its result thrown away. The tokenizer is loaded beforehand. Memory is that of
processes of their own, at as many short rows, and at ten times as many.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.kit import Figure, Peer, Size, in_turns, report, times_as_fast
from benchmarks.scene import kdpipe, made_texts, planned, run, texts_of
from kdpipe.corpus import Corpus, open_corpus
from kdpipe.fill_blocks import Reading
from kdpipe.progress import set_quiet
from kdpipe.write_corpus import write_corpus

OURS, LIMIT, PEER = "kdpipe tokenize", "limit: encode_batch_fast", "datasets.map"
_CHUNK = 4096
"""Rows that kdpipe tokenises together."""


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--without-peers", action="store_true")
    options = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        texts = all_texts(root, options.files, options.rows)
        (root / "text.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        project = planned(root, len(texts), files=[str(root / "text.txt")])
        spec, reading, out = project.pipeline.corpora["c"], project.reading("c"), root / "corpus"
        works = {
            OURS: lambda: write_corpus(spec, out, reading, root, {}),
            LIMIT: lambda: [None for _ in encoded(reading, texts)],
        }
        if not options.without_peers:
            model = project.teacher("t").folder
            works[PEER] = stack.enter_context(Peer("tokenize", str(root / "text.txt"), str(model)))
        seconds = in_turns(works, options.repetitions)
        made = open_corpus(out)
        same = share_of_same(made, reading, texts)
        memory = [peak(root, options.rows * times) for times in (1, 10)]
    figures = [
        Figure("kdpipe, of its limit", times_as_fast(seconds, OURS, LIMIT), 0.95),
        Figure("rows of the same ids", same, 1.0, unit="of 1"),
        Figure("memory at 10 times the rows", memory[1] / memory[0], most=1.1),
        Figure("memory of its own, at most", memory[0] / 1e6, unit="MB"),
        Figure("memory for a row more", (memory[1] - memory[0]) / (9 * options.rows), unit="bytes"),
    ]
    if PEER in works:
        figures.insert(1, Figure("kdpipe, beside datasets.map", times_as_fast(seconds, OURS, PEER)))
    sizes = {"rows": made.facts.rows, "tokens": made.facts.tokens}
    sizes |= {"bytes": sum(file.bytes for file in made.manifest.files)}
    sizes |= {"threads": torch.get_num_threads()}
    report("tokenize", seconds, figures, sizes=sizes, per=Size(made.facts.tokens, "tokens"))


def all_texts(root: Path, files: list[str], rows: int) -> list[str]:
    """So many different lines."""
    given = texts_of(planned(root, 1 << 30, files=files))
    lines = [*dict.fromkeys(" ".join(text.split()) for text in given)]
    rounds = (
        line if number == 0 else f"{line} {number}"
        for number in itertools.count()
        for line in lines
    )
    return [*itertools.islice(rounds, rows)]


def encoded(reading: Reading, texts: list[str]) -> Iterator[list[list[int]]]:
    """What the tokenizer itself says about chunks of texts, its own objects."""
    backend = reading.tokenizer.backend
    backend.enable_truncation(reading.max_seq_length)
    for first in range(0, len(texts), _CHUNK):
        yield backend.encode_batch_fast(texts[first : first + _CHUNK])
    backend.no_truncation()


def share_of_same(made: Corpus, reading: Reading, texts: list[str]) -> float:
    """For which part of the texts the corpus has the ids that the tokenizer alone gives."""
    ours = itertools.chain.from_iterable(
        np.split(block.ids, block.starts[1:-1])
        for block in map(made.block, range(len(made.facts.blocks)))
    )
    alone: Iterable[list[int]] = (
        row.ids  # type: ignore[attr-defined]
        for chunk in encoded(reading, texts)
        for row in chunk
    )
    return sum(map(np.array_equal, ours, alone)) / len(texts)


def peak(root: Path, rows: int) -> int:
    """Bytes of memory of its own that `kdpipe tokenize` takes at most, for so many short rows."""
    folder = root / f"rows-{rows}"
    folder.mkdir()
    text = made_texts(folder / "text.txt", rows, words=24)
    project = planned(folder, rows, files=[str(text)])
    return run(kdpipe("tokenize", str(project.file)), folder, watch=True).anonymous


if __name__ == "__main__":
    main()
