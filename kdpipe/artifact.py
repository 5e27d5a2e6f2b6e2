"""A finished folder: its manifest is its last file, lists every part, and names its inputs.

The digest of a manifest is the identity of the artifact: it covers the digests of all parts and of
the manifests of the inputs, so the chain from the text to the student can be checked from any end.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError

from kdpipe import io
from kdpipe.config import Frozen
from kdpipe.errors import ArtifactError, UsageError

MANIFEST = "manifest.json"
MAX_BYTES = 64 << 20

PartName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$"),
]


class Part(Frozen):
    """One file of an artifact."""

    name: PartName
    """Path inside the folder, at most two levels deep."""
    bytes: int = Field(ge=0)
    digest: str
    """`xxh3_128:<hex>` or `sha256:<hex>`."""


class Manifest(Frozen):
    """What a finished folder is, from what it was made, and which files it has."""

    format: str
    """`kdpipe.texts`, `kdpipe.corpus`, `kdpipe.cache` or `kdpipe.student`."""
    version: int
    """Of the format; readers refuse a newer one."""
    spec: dict[str, Any]
    """The section of the pipeline file that asked for it, defaults filled in."""
    inputs: dict[str, str]
    """Name of each input -> the digest of its manifest or of its files."""
    facts: dict[str, Any]
    """What was found while making it: counts, shapes, numerics, measured differences."""
    files: tuple[Part, ...]


VERSIONS = {"kdpipe.corpus": 1, "kdpipe.cache": 2, "kdpipe.student": 1, "kdpipe.texts": 1}


def part(folder: Path, name: str, algorithm: str = "xxh3_128") -> Part:
    """Describe a file that lies in `folder`."""
    path = folder / name
    return Part(name=name, bytes=path.stat().st_size, digest=io.digest_file(path, algorithm))


def unfinish(folder: Path) -> None:
    """Take away the manifest, if there is one, before the files that it lists change."""
    io.forget(folder / MANIFEST)


def finish(folder: Path, manifest: Manifest) -> str:
    """Write the manifest, which makes the folder finished; returns its digest."""
    data = manifest.model_dump_json(indent=1).encode("utf-8") + b"\n"
    if len(data) > MAX_BYTES:
        raise UsageError(
            f"{folder} would have {len(manifest.files):,} files, more than a manifest of"
            f" {MAX_BYTES} bytes can list: make several smaller corpora"
        )
    io.write_file(folder / MANIFEST, data)
    return hashlib.sha256(data).hexdigest()


def open_finished(folder: Path, kind: str, remedy: str) -> tuple[Manifest, str]:
    """The manifest of a finished `kind` and its digest.

    Raises:
        ArtifactError: not finished, not readable, of another kind, or of a newer version.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        state = "is not finished" if folder.is_dir() else "does not exist"
        raise ArtifactError(f"{folder} {state}: {remedy}") from None
    if len(data) > MAX_BYTES:
        raise ArtifactError(f"{path}: {len(data)} bytes is more than {MAX_BYTES}: {remedy}")
    try:
        raw = json.loads(data, parse_constant=_refuse, object_pairs_hook=_unique)
        manifest = Manifest.model_validate(raw)
    except (ValueError, ValidationError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(
            f"{path} is damaged ({reason}): delete {folder}, then {remedy}"
        ) from None
    if manifest.format != kind:
        raise ArtifactError(f"{folder} is a {manifest.format}, not a {kind}: {remedy}")
    if manifest.version > VERSIONS[kind]:
        raise ArtifactError(
            f"{folder} has version {manifest.version} of {kind}, this kdpipe reads up to"
            f" {VERSIONS[kind]}: update kdpipe"
        )
    return manifest, hashlib.sha256(data).hexdigest()


def is_current(
    folder: Path, kind: str, spec: dict[str, Any], inputs: dict[str, str], *, verify: bool = False
) -> bool:
    """Whether `folder` is finished, complete in size, and made by `spec` from `inputs`.

    `verify` also reads all files, and compares their digests.
    """
    try:
        manifest, _ = open_finished(folder, kind, "")
    except ArtifactError:
        return False
    if (manifest.spec, manifest.inputs, manifest.version) != (spec, inputs, VERSIONS[kind]):
        return False
    if any(_size(folder / file.name) != file.bytes for file in manifest.files):
        return False
    return not verify or all(_has_digest(folder, file) for file in manifest.files)


def check(folder: Path, file: Part, remedy: str) -> Path:
    """The path of a part whose bytes are what the manifest says; raises ArtifactError."""
    path = folder / file.name
    if _size(path) != file.bytes:
        raise ArtifactError(
            f"{path} is missing or cut short ({file.bytes} bytes expected): {remedy}"
        )
    if not _has_digest(folder, file):
        raise ArtifactError(f"{path} is damaged (digest differs from the manifest): {remedy}")
    return path


def readable(record: dict[str, Any]) -> bytes:
    """A record as JSON that people read: indented, keys in the order given."""
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_record(path: Path) -> dict[str, Any]:
    """A small JSON object that kdpipe wrote; raises ArtifactError where it is damaged."""
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path} is damaged ({reason}): delete it and rerun") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is damaged (not an object): delete it and rerun")
    return value


def _has_digest(folder: Path, file: Part) -> bool:
    return io.digest_file(folder / file.name, file.digest.partition(":")[0]) == file.digest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return -1


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key stands twice")
    return keys
