"""What an artifact is, from what it was made, how large it is and whether it looks healthy.

Legend: V vectors, D width. A page has facts, a line each, and maybe a table; nothing is verified
here but what has to be read, and damage is a line like the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file
from torch import Tensor

from kdpipe import artifact, cache, checkpoint, corpus, storage
from kdpipe.artifact import MANIFEST, Manifest
from kdpipe.augment import write
from kdpipe.augment.write import TextFacts
from kdpipe.cache import CacheFacts
from kdpipe.contents import facts_of
from kdpipe.corpus import Corpus, CorpusFacts
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.file_pages import (
    FILE_COLUMNS,
    page_of_block,
    page_of_checkpoint,
    page_of_receipt,
    page_of_tensors,
    rows_of_files,
)
from kdpipe.hub import read_json
from kdpipe.made_from import KIND as STUDENT
from kdpipe.pages import Page, Pairs, compact, cut_short, filled, mapping, measures, numeral
from kdpipe.progress import counted, human_bytes
from kdpipe.targets import Question
from kdpipe.tensor_files import ABOUT_ROWS, Kind, header

_SAMPLE = 8
"""Blocks whose vectors are looked at."""
_SHOWN = 20
"""Labels that are counted by name."""
_NORMS = ("mean norm ", "least ", "largest ", "zero ", "not finite ")


def inspect(path: Path) -> Page:
    """The page of an artifact's folder, of a checkpoint, or of one of their files.

    Raises:
        ArtifactError: it is not there, or its manifest cannot be read.
        UsageError: it is none of kdpipe's.
    """
    if path.name in {MANIFEST, checkpoint.STATE}:
        path = path.parent
    if (path / MANIFEST).is_file():
        return _artifact(path)
    if (path / checkpoint.STATE).is_file():
        return page_of_checkpoint(path)
    if not path.exists():
        raise ArtifactError(f"{path} does not exist: check the path")
    files = {".safetensors": page_of_tensors, ".arrow": page_of_block, ".json": page_of_receipt}
    if path.is_file() and path.suffix in files:
        return files[path.suffix](path)
    raise UsageError(
        f"{path} is nothing to inspect: name the folder of an artifact or of a checkpoint, or a"
        " .safetensors file, a block (.arrow) or a receipt (.json)"
    )


def _artifact(folder: Path) -> Page:
    manifest, digest = artifact.open_any(folder, "run the stage that makes it")
    parts = {part.name: part.bytes for part in manifest.files}
    head = [
        ("what", f"{manifest.format}, version {manifest.version}"),
        ("digest", digest[:12]),
        *_lines(
            "made from", [_input(manifest, name) for name, said in manifest.inputs.items() if said]
        ),
        *_lines(
            "spec",
            [cut_short(f"{key}: {compact(said)}") for key, said in filled(manifest.spec).items()],
        ),
        ("files", f"{counted(len(parts), 'file')}, {human_bytes(sum(parts.values()))}"),
    ]
    kinds: dict[str, Callable[[Path, Manifest, str], Page]] = {
        write.KIND: _texts,
        corpus.KIND: _corpus,
        cache.KIND: _cache,
        STUDENT: _student,
    }
    page = kinds[manifest.format](folder, manifest, digest)
    return Page([*head, *page.facts], page.columns, page.rows)


def _input(manifest: Manifest, name: str) -> str:
    """`cache.said 12ab34cd56ef`, with what the section calls it: `source.0 (text.txt) ...`."""
    value = manifest.inputs[name]
    short = value[:12] if len(value) == 64 else value
    kind, _, number = name.rpartition(".")
    known = manifest.spec.get(name) if short != value else None
    listed = manifest.spec.get({"source": "sources", "validation_source": kind + "s"}.get(kind, ""))
    if isinstance(listed, list) and number.isdecimal() and int(number) < len(listed):
        source = mapping(listed[int(number)])
        files = source.get("files")
        known = ", ".join(map(str, files)) if isinstance(files, list) else source.get("kind")
    return f"{name} ({known}) {short}" if isinstance(known, str) else f"{name} {short}"


def _lines(name: str, values: Sequence[str]) -> Pairs:
    return [(name if number == 0 else "", value) for number, value in enumerate(values)]


def _texts(folder: Path, manifest: Manifest, digest: str) -> Page:
    facts = facts_of(TextFacts, folder, manifest)
    return Page([("size", f"{counted(facts.rows, 'row')} became {counted(facts.texts, 'text')}")])


def _corpus(folder: Path, manifest: Manifest, digest: str) -> Page:
    facts = facts_of(CorpusFacts, folder, manifest)
    held = facts.held_out / max(facts.rows, 1)
    rows, tokens = counted(facts.rows, "row"), counted(facts.tokens, "token")
    pairs = [
        ("size", f"{rows}, {tokens} in {counted(len(facts.blocks), 'block')}"),
        ("tokenizer", f"{facts.tokenizer[:12]}, {counted(facts.vocabulary, 'token')}"),
        ("longest row", f"{counted(facts.longest, 'token')}, at most {facts.max_seq_length:,}"),
        ("cut", counted(facts.cut_rows, "row")),
        ("duplicates", f"{counted(facts.duplicates, 'row')} left out"),
        ("held out", f"{counted(facts.held_out, 'row')} ({100 * held:.1f} %)"),
    ]
    if facts.masked:
        pairs.append(("masked", counted(facts.masked, "token")))
    try:
        labels = _labels(corpus.open_corpus(folder))
    except ArtifactError as error:
        labels = [("damage", str(error))]
    return Page([*pairs, *labels])


def _labels(read: Corpus) -> Pairs:
    """How often there is which label, or what there is where they are numbers or places."""
    counts, numbers, places = Counter[str](), list[float](), Counter[str]()
    missing = 0
    for index, block in enumerate(read.facts.blocks):
        labels = read.block(index).labels
        missing += block.rows if labels is None else labels.null_count
        if labels is None:
            continue
        values = labels.flatten() if pa.types.is_list(labels.type) else labels
        if pa.types.is_list(labels.type) and pa.types.is_integer(values.type):
            spans = values.to_numpy().reshape(-1, 2).any(1)
            places.update(np.where(spans, "answered", "without an answer").tolist())
        elif pa.types.is_floating(values.type):
            numbers += values.drop_null().to_pylist()
        else:
            counts.update(str(value) for value in values.drop_null().to_pylist())
    if missing == read.facts.rows:
        return [("labels", "none")]
    said = [f"{name} {count:,}" for name, count in (counts or places).most_common(_SHOWN)]
    said += [counted(len(counts) - _SHOWN, "other")] if len(counts) > _SHOWN else []
    if numbers:
        mean = math.fsum(numbers) / len(numbers)
        several = counted(len(numbers), "number")
        said = [f"{several}, {min(numbers):g} to {max(numbers):g}, mean {mean:g}"]
    said += [f"{counted(missing, 'row')} without"] if missing else []
    return [("labels", ", ".join(said))]


def _cache(folder: Path, manifest: Manifest, digest: str) -> Page:
    facts = facts_of(CacheFacts, folder, manifest)
    difference = "none, it is fp32"
    if facts.difference is not None:
        one = facts.difference
        difference = f"cosine at least {one.min_cosine}, at most {one.max_abs} in a number,"
        difference += f" on {counted(one.rows, 'row')}"
    blocks = len(manifest.files) // max(len(facts.questions), 1)
    sample = sorted(
        {*np.linspace(0, blocks - 1, min(_SAMPLE, blocks)).round().astype(int).tolist()}
    )
    rows, layers = counted(facts.rows, "row"), counted(facts.layers, "layer")
    said = counted(blocks, "block")
    pairs = [
        ("size", f"{rows} in {said}, {counted(len(facts.questions), 'question')}"),
        ("teacher", f"{facts.teacher[:12]}, {layers} of {facts.hidden_width}"),
        ("dtype", facts.dtype),
        ("to fp32", difference),
        ("looked at", f"{len(sample):,} of {said}"),
    ]
    if facts.classes:
        pairs.append(("classes", cut_short(", ".join(facts.classes))))
    lines = list[Sequence[str]]()
    for number, question in enumerate(facts.questions):
        parts = manifest.files[number :: len(facts.questions)]
        try:
            lines.append(_question(folder, question, parts, [parts[index] for index in sample]))
        except (ArtifactError, OSError) as error:
            pairs.append(("damage", str(error)))
    return Page(pairs, ("question", "vectors ", "width ", "storage", "bytes ", *_NORMS), lines)


def _question(
    folder: Path,
    question: Question,
    parts: Sequence[artifact.Part],
    sample: Sequence[artifact.Part],
) -> Sequence[str]:
    shapes = [_values(folder / part.name).shape for part in parts]
    norms, bad = list[Tensor](), 0
    for part in sample:
        kept = load_file(artifact.check(folder, part, f"{cache.REMEDY} with --verify"))
        spoilt = storage.not_finite({name: kept[name] for name in kept.keys() - ABOUT_ROWS})
        bad += int(spoilt.sum())
        values = storage.decode({key: kept[key] for key in kept.keys() & {"values", "scale"}})
        norms.append(torch.linalg.vector_norm(values[~spoilt], dim=-1))
    size = sum({part.name: part.bytes for part in parts}.values())
    of = torch.cat([torch.empty(0), *norms])
    shown = (
        [f"{float(one):.4g}" for one in (of.mean(), of.min(), of.max())] if len(of) else ["-"] * 3
    )
    return (
        question.name.removesuffix(f".{question.storage}"),
        f"{sum(shape[0] for shape in shapes):,}",
        f"{max((shape[1] for shape in shapes), default=0):,}",
        question.storage,
        f"{size:,}",
        *shown,
        f"{int((of == 0).sum()):,}",
        f"{bad:,}",
    )


def _values(path: Path) -> Kind:
    remedy = f"{cache.REMEDY} with --verify"
    kind = header(path, remedy).get("values", Kind("", ()))
    if len(kind.shape) != 2:
        raise ArtifactError(f"{path} has no values [V, D]: {remedy}")
    return kind


def _student(folder: Path, manifest: Manifest, digest: str) -> Page:
    facts = manifest.facts
    pairs = [
        ("parameters", numeral(facts.get("parameters"))),
        ("steps", f"{numeral(facts.get('steps'))}, the best was {numeral(facts.get('best_step'))}"),
        ("measured", measures(facts.get("measured"))),
    ]
    try:
        story = read_json(folder / "kdpipe.json")
        shape, teacher = filled(mapping(story.get("shape"))), mapping(story.get("teacher"))
        pairs += [
            ("shape", cut_short(", ".join(f"{key} {compact(one)}" for key, one in shape.items())))
        ]
        pairs += [("teacher", str(teacher.get("model", "none")))]
    except ArtifactError as error:
        pairs.append(("damage", str(error)))
    names = [part.name for part in manifest.files if part.name.endswith(".safetensors")]
    damage, rows = rows_of_files([(name, folder / name) for name in names])
    return Page(pairs + damage, FILE_COLUMNS, rows)
