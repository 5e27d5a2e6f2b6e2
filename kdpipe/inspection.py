"""What an artifact is, from what it was made, how large it is and whether it looks healthy.

Legend: V vectors, D width. A page has facts, a line each, and maybe a table; nothing is verified
here but what has to be read, and damage is a line like the others.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file
from torch import Tensor

from kdpipe import artifact, blocks, cache, checkpoint, corpus, io, records, storage
from kdpipe.artifact import MANIFEST, Manifest
from kdpipe.augment import write
from kdpipe.augment.write import TextFacts
from kdpipe.cache import CacheFacts
from kdpipe.contents import facts_of
from kdpipe.corpus import Corpus, CorpusFacts
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.hub import read_json
from kdpipe.made_from import KIND as STUDENT
from kdpipe.progress import counted, human_bytes
from kdpipe.store import Receipt, key_of
from kdpipe.targets import Question
from kdpipe.tensor_files import ABOUT_ROWS, Kind, header, not_finite

Pairs = list[tuple[str, str]]
_SAMPLE = 8
"""Blocks whose vectors are looked at."""
_SHOWN = 20
"""Labels that are counted by name."""
_WIDE = 100
_DAMAGED = "delete it, then rerun the stage that makes it"
_NORMS = ("mean norm ", "least ", "largest ", "zero ", "not finite ")


@dataclass(frozen=True)
class Page:
    """What is told of one thing."""

    facts: Pairs
    columns: Sequence[str] = ()
    """Names; one that ends in a blank has numbers."""
    rows: Sequence[Sequence[str]] = ()


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
        return _checkpoint(path)
    if not path.exists():
        raise ArtifactError(f"{path} does not exist: check the path")
    files = {".safetensors": _tensors, ".arrow": _block, ".json": _receipt}
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
            "spec", [_cut(f"{key}: {_compact(said)}") for key, said in _said(manifest.spec).items()]
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
        source = _mapping(listed[int(number)])
        files = source.get("files")
        known = ", ".join(map(str, files)) if isinstance(files, list) else source.get("kind")
    return f"{name} ({known}) {short}" if isinstance(known, str) else f"{name} {short}"


def _said(value: Any) -> Any:
    """The same without keys that have nothing."""
    if isinstance(value, list):
        return [_said(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _said(one) for key, one in value.items()}
    return {key: one for key, one in kept.items() if one not in (None, [], {}, "")}


def _compact(value: Any) -> str:
    """One line: `{kind: files, files: [text.txt]}`."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_compact(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_compact, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _cut(text: str) -> str:
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 3]}..."


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
        pairs.append(("classes", _cut(", ".join(facts.classes))))
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
        ("parameters", _number(facts.get("parameters"))),
        ("steps", f"{_number(facts.get('steps'))}, the best was {_number(facts.get('best_step'))}"),
        ("measured", _measured(facts.get("measured"))),
    ]
    try:
        story = read_json(folder / "kdpipe.json")
        shape, teacher = _said(_mapping(story.get("shape"))), _mapping(story.get("teacher"))
        pairs += [
            ("shape", _cut(", ".join(f"{key} {_compact(one)}" for key, one in shape.items())))
        ]
        pairs += [("teacher", str(teacher.get("model", "none")))]
    except ArtifactError as error:
        pairs.append(("damage", str(error)))
    names = [part.name for part in manifest.files if part.name.endswith(".safetensors")]
    damage, rows = _files([(name, folder / name) for name in names])
    return Page(pairs + damage, ("file", "tensors ", "numbers ", "types", "not finite "), rows)


def _files(paths: Sequence[tuple[str, Path]]) -> tuple[Pairs, list[Sequence[str]]]:
    """A row for each file of tensors, and a line for each that cannot be read."""
    damage, rows = list[tuple[str, str]](), list[Sequence[str]]()
    for name, path in paths:
        try:
            kinds = header(path, _DAMAGED)
        except (ArtifactError, OSError) as error:
            damage.append(("damage", str(error)))
            continue
        numbers = sum(math.prod(kind.shape) for kind in kinds.values())
        types = ", ".join(sorted({kind.dtype for kind in kinds.values()}))
        bad = sum(count for _, count in not_finite(path))
        rows.append((name, f"{len(kinds):,}", f"{numbers:,}", types, f"{bad:,}"))
    return damage, rows


def _measured(values: Any) -> str:
    pairs = _mapping(values).items()
    return (
        ", ".join(f"{name} {value:.4f}" for name, value in pairs if _is_number(value)) or "nothing"
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> str:
    return f"{value:,}" if _is_number(value) else "?"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _checkpoint(folder: Path) -> Page:
    state = records.read_sealed(folder / checkpoint.STATE)
    progress, digests = _mapping(state.get("progress")), _mapping(state.get("digests"))
    step, best = _number(progress.get("step")), _number(progress.get("best_step"))
    wrong = [
        ("damage", f"{folder / name}.safetensors: its digest is not that of {checkpoint.STATE}")
        for name, digest in digests.items()
        if not _has(folder / f"{name}.safetensors", digest)
    ]
    pairs = [
        ("what", "a checkpoint of a training run"),
        ("steps", f"{step}, the best was {best}"),
        ("measured", _measured(progress.get("best"))),
    ]
    damage, rows = _files([(name, folder / f"{name}.safetensors") for name in digests])
    columns = ("file", "tensors ", "numbers ", "types", "not finite ")
    return Page([*pairs, *wrong, *damage], columns, rows)


def _has(path: Path, digest: str) -> bool:
    return path.is_file() and io.digest_file(path) == digest


def _tensors(path: Path) -> Page:
    kinds, bad = header(path, _DAMAGED), dict(not_finite(path))
    numbers = sum(math.prod(kind.shape) for kind in kinds.values())
    return Page(
        [
            ("what", f"{counted(len(kinds), 'tensor')}, {counted(numbers, 'number')}"),
            ("bytes", f"{path.stat().st_size:,}"),
        ],
        ("tensor", "type", "shape", "not finite "),
        [
            (name, kind.dtype, str([*kind.shape]), f"{bad.get(name, 0):,}")
            for name, kind in sorted(kinds.items())
        ],
    )


def _block(path: Path) -> Page:
    table = blocks.read_table(path)
    what, size = f"a block of {counted(len(table), 'row')}", path.stat().st_size
    pairs = [("what", what), ("bytes", f"{size:,}")]
    if "length" in table.column_names and len(table):
        lengths = table.column("length").to_numpy()
        pairs.append(("tokens", f"{lengths.sum():,}, the longest row has {lengths.max():,}"))
    rows = [
        (field.name, str(field.type), f"{table[field.name].null_count:,}") for field in table.schema
    ]
    return Page(pairs, ("column", "type", "null "), rows)


def _receipt(path: Path) -> Page:
    if not re.fullmatch("[0-9a-f]{64}", path.stem):
        raise UsageError(f"{path} is no receipt of the store: name one, or a folder")
    try:
        receipt = Receipt.model_validate(records.read_sealed(path))
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path} is damaged ({reason}): delete it and rerun") from None
    shard = path.with_suffix(".safetensors")
    state = "there, of that size and digest"
    if not shard.is_file():
        state = "not there"
    elif (shard.stat().st_size, io.digest_file(shard)) != (receipt.bytes, receipt.digest):
        state = "damaged: run 'kdpipe cache verify --repair'"
    key = "of this question" if key_of(receipt.question) == path.stem else "of another question"
    return Page(
        [
            ("what", f"the receipt of a shard, format {receipt.format}"),
            *((name, _compact(said)) for name, said in receipt.question.items()),
            ("made by", _compact(receipt.made_by)),
            ("bytes", f"{receipt.bytes:,}"),
            ("shard", state),
            ("key", key),
        ]
    )
