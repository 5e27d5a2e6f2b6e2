"""JSON from the disk: small, strict, and, where kdpipe wrote it, with the digest of its own bytes.

The last line of a sealed record is `"sha256": "<64 hex>"}`: that of all bytes before the comma that
ends the line before. No bit of it can change unnoticed, in whatever language it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from pathlib import Path
from typing import Any

from kdpipe.errors import ArtifactError

_SEAL = b',\n"sha256": "'
_MOST = 64 << 20
_HEADER = 10 << 20
"""Of a safetensors file, in bytes: more than 50,000 tensors."""


def seal(record: bytes) -> bytes:
    """A JSON object with its digest as its last key."""
    return _with_digest(record.rstrip().removesuffix(b"}").rstrip())


def is_sealed(data: bytes) -> bool:
    """Whether these are the bytes that `seal` gave."""
    return _with_digest(data.rpartition(_SEAL)[0]) == data


def read_sealed(path: Path) -> dict[str, Any]:
    """A record that kdpipe sealed, without its digest.

    Raises:
        FileNotFoundError: it is not there.
        ArtifactError: it is damaged.
    """
    data = read_regular(path, _MOST)
    if not is_sealed(data):
        raise ArtifactError(f"{path} is damaged (its digest differs): delete it and rerun")
    record = read_object(path, data)
    del record["sha256"]
    return record


def read_object(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON object in the bytes of `path`; raises ArtifactError where there is none."""
    try:
        value = parse(data)
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error}): delete it and rerun") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is damaged (not an object): delete it and rerun")
    return value


def parse(data: bytes) -> Any:
    """What is in JSON; raises ValueError, also for NaN, Infinity, and a key that stands twice."""
    try:
        return json.loads(
            data, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(str(error).splitlines()[0]) from None


def read_regular(path: Path, most: int) -> bytes:
    """All bytes of a regular file, which a link may lead to.

    Raises:
        FileNotFoundError: it is not there.
        ArtifactError: it is no file, or has more than `most` bytes.
    """
    found = path.stat()
    # A pipe would never end, or begin.
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactError(f"{path} is no regular file: delete it and rerun")
    if found.st_size > most:
        raise ArtifactError(f"{path}: {found.st_size} bytes is more than {most}: look at it")
    with path.open("rb") as file:
        return file.read(most)


def read_header(path: Path, remedy: str) -> dict[str, Any]:
    """What a safetensors file says of its tensors, before the library reads that.

    `remedy` is what to do where it is none.

    Raises:
        FileNotFoundError: it is not there.
        ArtifactError: no regular file, or a header that is no JSON object of at most 10 MiB.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ArtifactError(f"{path} is no regular file: delete it and rerun")
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _HEADER:
            raise ArtifactError(
                f"{path} is no safetensors file (its header has {size} bytes): {remedy}"
            )
        data = file.read(size)
    return read_object(path, data)


def _with_digest(body: bytes) -> bytes:
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key stands twice")
    return keys
