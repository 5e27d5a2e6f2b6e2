"""The pages of a checkpoint and of single files: tensors, a block of a corpus, a receipt."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from kdpipe import blocks, checkpoint, io, records
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.pages import Page, Pairs, compact, mapping, measures, numeral
from kdpipe.progress import counted
from kdpipe.store import Receipt, key_of
from kdpipe.tensor_files import header, not_finite

_DAMAGED = "delete it, then rerun the stage that makes it"
FILE_COLUMNS = ("file", "tensors ", "numbers ", "types", "not finite ")
"""Of `rows_of_files`."""


def rows_of_files(paths: Sequence[tuple[str, Path]]) -> tuple[Pairs, list[Sequence[str]]]:
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


def page_of_checkpoint(folder: Path) -> Page:
    """Of a folder with a state; raises ArtifactError where that is damaged."""
    state = records.read_sealed(folder / checkpoint.STATE)
    progress, digests = mapping(state.get("progress")), mapping(state.get("digests"))
    step, best = numeral(progress.get("step")), numeral(progress.get("best_step"))
    wrong = [
        ("damage", f"{folder / name}.safetensors: its digest is not that of {checkpoint.STATE}")
        for name, digest in digests.items()
        if not _has(folder / f"{name}.safetensors", digest)
    ]
    pairs = [
        ("what", "a checkpoint of a training run"),
        ("steps", f"{step}, the best was {best}"),
        ("measured", measures(progress.get("best"))),
    ]
    damage, rows = rows_of_files([(name, folder / f"{name}.safetensors") for name in digests])
    return Page([*pairs, *wrong, *damage], FILE_COLUMNS, rows)


def _has(path: Path, digest: str) -> bool:
    return path.is_file() and io.digest_file(path) == digest


def page_of_tensors(path: Path) -> Page:
    """Of a safetensors file; raises ArtifactError where it is none."""
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


def page_of_block(path: Path) -> Page:
    """Of a block of a corpus; raises ArtifactError where it is none."""
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


def page_of_receipt(path: Path) -> Page:
    """Of a receipt, and whether its shard is there.

    Raises:
        UsageError: another file.
        ArtifactError: a damaged one.
    """
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
            *((name, compact(said)) for name, said in receipt.question.items()),
            ("made by", compact(receipt.made_by)),
            ("bytes", f"{receipt.bytes:,}"),
            ("shard", state),
            ("key", key),
        ]
    )
