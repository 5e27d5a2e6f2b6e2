"""From text to a corpus: read, drop duplicates, tokenise, cut into blocks, hold some rows out."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kdpipe import artifact, corpus, io, versions
from kdpipe.corpus import CorpusFacts
from kdpipe.corpus_rows import Chosen, Distinct
from kdpipe.errors import ArtifactError
from kdpipe.fill_blocks import Begun, Blocks, Keep, Reading
from kdpipe.pipeline import CorpusSpec
from kdpipe.progress import Progress
from kdpipe.sources import Source

CHUNK = 4096
"""Rows that are tokenised together."""


def inputs_of(spec: CorpusSpec, reading: Reading, root: Path) -> dict[str, str]:
    """All that a corpus depends on beside the spec."""
    return {
        "meaning": str(versions.TOKENIZE),
        "tokenizer": reading.known.fingerprint,
        "prompt": reading.prompt,
        "max_seq_length": str(reading.max_seq_length),
        **source_digests(spec, root),
    }


def source_digests(spec: CorpusSpec, root: Path) -> dict[str, str]:
    """What the text depends on beside the spec, by source."""
    return {name: source.state(root) for name, source in named_sources(spec).items()}


def named_sources(spec: CorpusSpec) -> dict[str, Source]:
    """Where the text comes from, by the names that manifests use."""
    named = {"source": spec.sources, "validation_source": spec.validation_sources}
    return {f"{name}.{i}": one for name, sources in named.items() for i, one in enumerate(sources)}


def write_corpus(
    spec: CorpusSpec, folder: Path, reading: Reading, root: Path, inputs: dict[str, str]
) -> CorpusFacts:
    """Make the corpus that `spec` asks for in `folder`; files of an older one are removed.

    Raises:
        ArtifactError: no rows, rows that all are held out, rows of several kinds, labels of several
            types or too many of them, or text that is not what `inputs` say any more.
    """
    distinct = Distinct(spec, root)
    total = None if spec.validation_sources else spec.max_rows
    io.make_folder(folder)
    with Progress("tokenize", total=total, unit="rows") as bar:

        def chunks() -> Iterator[list[Chosen]]:
            for chunk in chunked(distinct):
                yield chunk
                bar.advance(len(chunk))

        def keep(name: str, data: bytes) -> None:
            io.write_file(folder / name, data)

        facts = encode_corpus(spec, reading, distinct, chunks(), keep)
    _refuse_changed(source_digests(spec, root), inputs)
    _refuse_nothing_to_train_on(spec, facts)
    names = [block.name for block in facts.blocks]
    parts = tuple(artifact.part(folder, name) for name in names)
    artifact.unfinish(folder)
    io.prune(folder, {*names})
    artifact.finish(
        folder,
        artifact.Manifest(
            format=corpus.KIND,
            version=artifact.VERSIONS[corpus.KIND],
            spec=spec.identity(),
            inputs=inputs,
            facts=facts.identity(),
            files=parts,
        ),
    )
    return facts


def _refuse_changed(now: dict[str, str], inputs: dict[str, str]) -> None:
    for name, state in now.items():
        if state != inputs[name]:
            raise ArtifactError(
                f"the text of {name} was changed while it was read: run the same command again"
            )


@contextlib.contextmanager
def nothing_old_is_garbage() -> Iterator[None]:
    """The collector does not look at what libraries have made, each time some million rows came."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def chunked(rows: Iterable[Chosen]) -> Iterator[list[Chosen]]:
    """Rows as they are tokenised together."""
    left = iter(rows)
    while chunk := list(itertools.islice(left, CHUNK)):
        yield chunk


def encode_corpus(
    spec: CorpusSpec,
    reading: Reading,
    distinct: Distinct,
    chunks: Iterable[list[Chosen]],
    keep: Keep,
) -> CorpusFacts:
    """Rows, of those of `distinct`, as blocks, each of which is given to `keep`."""
    blocks, under_way = Blocks(spec, reading, keep), deque[Begun]()
    with ThreadPoolExecutor(1, "tokenizer") as pool, nothing_old_is_garbage():
        for chunk in chunks:
            under_way.append(blocks.begin(chunk, pool))
            # One ahead: while tokenizers' own code runs, Python reads rows and keeps others.
            if len(under_way) > 1:
                blocks.add(under_way.popleft())
        while under_way:
            blocks.add(under_way.popleft())
    return blocks.close(distinct.duplicates)


def _refuse_nothing_to_train_on(spec: CorpusSpec, facts: CorpusFacts) -> None:
    """Raise ArtifactError for no rows, and for rows that all are held out."""
    if facts.rows == 0:
        remedy = "check their files and columns" + (", or widen 'share'" if spec.share else "")
        raise ArtifactError(f"the sources have no text: {remedy}")
    if facts.held_out == facts.rows:
        remedy = "lower 'validation' or add text"
        if spec.validation_sources:
            remedy = "give 'sources' text that 'validation_sources' have not"
        raise ArtifactError(f"all rows ({facts.rows:,}) are held out: {remedy}")
