"""What is in a safetensors file, what should be in a shard, and numbers that are none.

Legend: R rows, V vectors, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from kdpipe import records
from kdpipe.errors import ArtifactError
from kdpipe.targets import Question

_TYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "int8": "I8"}
ABOUT_ROWS = {"rows", "counts"}
"""Tensors of a shard that say which rows it is about, and how many vectors each has."""
_SHOWN = 200


class Kind(NamedTuple):
    """Type and shape of a tensor."""

    dtype: str
    """As the format has it: `F32`, `F16`, `BF16`, `I8`, `I32`, ..."""
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {[*self.shape]}"


def header(path: Path, remedy: str) -> dict[str, Kind]:
    """The tensors of a file by name, none of which is read.

    Raises:
        FileNotFoundError: it is not there.
        ArtifactError: it cannot be read; `remedy` is what to do then.
    """
    records.read_header(path, remedy)
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: Kind(one.get_dtype(), tuple(one.get_shape())) for name, one in found.items()
            }
    except SafetensorError as error:
        raise ArtifactError(f"{path} cannot be read ({error}): {remedy}") from None


def listed(kinds: dict[str, Kind]) -> str:
    """For people: `scale F32 [12], values I8 [12, 384]`."""
    said = ", ".join(f"{name} {kind}" for name, kind in sorted(kinds.items()))
    return said[:_SHOWN] or "nothing"


def not_finite(path: Path) -> Iterator[tuple[str, int]]:
    """Names of tensors in which there is NaN or Inf, and how many such; one tensor in memory."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            count = int((~tensor.isfinite()).sum()) if tensor.is_floating_point() else 0
            if count:
                yield name, count


def shard_kinds(question: Question, rows: int, vectors: int, width: int) -> dict[str, Kind]:
    """The tensors of a shard about R rows: V vectors of D numbers each."""
    kinds = {"rows": Kind("U8", (rows, 16))}
    if question.what.per_token:
        kinds["counts"] = Kind("I32", (rows,))
    kinds |= {"values": Kind(_TYPES[question.storage], (vectors, width))}
    if question.storage == "int8":
        kinds["scale"] = Kind("F32", (vectors,))
    if question.top_k is not None:
        kinds["indices"] = Kind("I32", (vectors, width))
        kinds["log_normalizer"] = Kind("F32", (vectors,))
    return kinds
