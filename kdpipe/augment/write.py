"""From the rows of sources to files of rows and copies, part by part: a killed run continues.

A part is made from a fixed number of rows and is named by the digest of all that it depends on.
Parts lie in a hidden folder until the last one is there, so that no corpus reads half of the texts.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdpipe import artifact, io
from kdpipe.augment.rows import copies
from kdpipe.augment.spec import AugmentationSpec
from kdpipe.augment.tools import Tools
from kdpipe.config import Frozen
from kdpipe.errors import ArtifactError
from kdpipe.progress import Progress
from kdpipe.sources import Row

KIND = "kdpipe.texts"
PART = 256
"""Rows of the sources in a part: what a killed run makes again."""
_UNFINISHED = ".parts"
"""A name that neither folders nor globs of a source reach."""


class TextFacts(Frozen):
    """What the manifest tells of augmented texts."""

    rows: int
    """Of the sources."""
    texts: int
    """Rows that were written, originals included."""


def text_inputs(spec: AugmentationSpec, root: Path) -> dict[str, str]:
    """What the texts depend on beside the spec: by source, and by method."""
    found = {f"source.{i}": source.state(root) for i, source in enumerate(spec.sources)}
    for number, method in enumerate(spec.methods):
        states = method.state(root)
        found |= {f"method.{number}.{name}": state for name, state in states.items()}
    return found


def write_texts(
    spec: AugmentationSpec, folder: Path, root: Path, inputs: dict[str, str], tools: Tools
) -> TextFacts:
    """Make the texts that `spec` asks for in `folder`; files of older ones are removed at the end.

    Raises:
        ArtifactError: no text to write, or a source, a model or vectors that are not there, or are
            not what `inputs` say any more.
        UsageError: words with tags, which a method would move.
    """
    io.make_folder(folder / _UNFINISHED)
    io.sweep(folder)
    whole, names, facts = _whole(folder), list[str](), TextFacts(rows=0, texts=0)
    with Progress("augment", total=None, unit="rows") as bar:
        for number, rows in enumerate(_parts(spec, root)):
            key = io.identity([_recipe(spec, inputs), rows])
            name = f"part-{number:06}-{key[:16]}.jsonl"
            path = (folder if name in whole else folder / _UNFINISHED) / name
            if path.is_file():
                data = path.read_bytes()
                bar.advance(len(rows))
            else:
                data = b"".join(_lines(rows, facts.rows, spec, tools, bar))
                io.write_file(path, data)
            # A source refuses an empty file.
            names += [name] if data else []
            facts = TextFacts(rows=facts.rows + len(rows), texts=facts.texts + data.count(b"\n"))
    if not names:
        raise ArtifactError(
            "no copy differs from its row, so there is no text to write: raise 'copies', or set"
            " keep_original: true"
        )
    for what, state in text_inputs(spec, root).items():
        if state != inputs[what]:
            raise ArtifactError(
                f"{what} of the texts was changed while it was read: run the same command again"
            )
    _publish(spec, folder, inputs, facts, names)
    return facts


def _parts(spec: AugmentationSpec, root: Path) -> Iterator[list[Row]]:
    rows = (row for source in spec.sources for row in source.rows(root))
    while part := list(itertools.islice(rows, PART)):
        yield part


def _lines(
    rows: list[Row], first: int, spec: AugmentationSpec, tools: Tools, bar: Progress
) -> Iterator[bytes]:
    """Each row and its copies as JSON; the row of the sources counts from 0."""
    for number, row in enumerate(rows, start=first):
        for one in [*([row] if spec.keep_original else []), *copies(row, spec, tools)]:
            record: dict[str, Any] = {"text": one.text if one.words is None else one.words}
            if one.text_pair is not None:
                record["text_pair"] = one.text_pair
            record |= {"label": one.label, "source_row": number}
            record["origin"] = row.whole if row.group is None else row.group
            yield json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        bar.advance(1)


def _recipe(spec: AugmentationSpec, inputs: dict[str, str]) -> list[dict[str, Any]]:
    """All that decides what becomes of a row, and nothing that says where rows come from."""
    said = {key: value for key, value in spec.identity().items() if key != "sources"}
    return [said, {k: v for k, v in inputs.items() if not k.startswith("source.")}]


def _whole(folder: Path) -> set[str]:
    """Names of the finished parts of an earlier run whose bytes are what its manifest says."""
    try:
        manifest, _ = artifact.open_finished(folder, KIND, "")
    except ArtifactError:
        return set()
    found = set()
    for part in manifest.files:
        try:
            artifact.check(folder, part, "")
        except ArtifactError:
            continue
        found.add(part.name)
    return found


def _publish(
    spec: AugmentationSpec,
    folder: Path,
    inputs: dict[str, str],
    facts: TextFacts,
    names: list[str],
) -> None:
    for name in names:
        if (folder / _UNFINISHED / name).is_file():
            io.place(folder / _UNFINISHED / name, folder / name)
    artifact.unfinish(folder)
    io.prune(folder, {*names})
    artifact.finish(
        folder,
        artifact.Manifest(
            format=KIND,
            version=artifact.VERSIONS[KIND],
            spec=spec.identity(),
            inputs=inputs,
            facts=facts.identity(),
            files=tuple(artifact.part(folder, name) for name in names),
        ),
    )
