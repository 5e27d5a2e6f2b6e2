"""A finished folder: its manifest is its last file, lists every part, and names its inputs.

The digest of a manifest is the identity of the artifact: it covers the digests of all parts and of
the manifests of the inputs, so the chain from the text to the student can be checked from any end.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError

from kdpipe import io, records
from kdpipe.config import Frozen
from kdpipe.errors import ArtifactError, UsageError

MANIFEST = "manifest.json"
MAX_BYTES = 64 << 20
_SHOWN = 5
"""Differences that a message names."""

PartName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$", max_length=250
    ),
]
Digest = Annotated[str, StringConstraints(pattern=r"^(xxh3_128:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")]


class Part(Frozen):
    """One file of an artifact."""

    name: PartName
    """Path inside the folder, at most two levels deep."""
    bytes: int = Field(ge=0, lt=2**63)
    digest: Digest
    """`xxh3_128:<hex>` or `sha256:<hex>`."""


class Manifest(Frozen):
    """What a finished folder is, from what it was made, and which files it has."""

    format: str
    """`kdpipe.texts`, `kdpipe.corpus`, `kdpipe.cache` or `kdpipe.student`."""
    version: int
    """Of the format; readers refuse another one."""
    spec: dict[str, Any]
    """The section of the pipeline file that asked for it, defaults filled in."""
    inputs: dict[str, str]
    """Name of each input -> the digest of its manifest or of its files."""
    facts: dict[str, Any]
    """What was found while making it: counts, shapes, numerics, measured differences."""
    files: tuple[Part, ...]


VERSIONS = {"kdpipe.corpus": 2, "kdpipe.cache": 4, "kdpipe.student": 2, "kdpipe.texts": 2}


def part(folder: Path, name: str, algorithm: str = "xxh3_128") -> Part:
    """Describe a file that lies in `folder`."""
    path = folder / name
    return Part(name=name, bytes=path.stat().st_size, digest=io.digest_file(path, algorithm))


def unfinish(folder: Path) -> None:
    """Take away the manifest, if there is one, before the files that it lists change."""
    io.forget(folder / MANIFEST)


def finish(folder: Path, manifest: Manifest) -> str:
    """Write the manifest, which makes the folder finished; returns its digest."""
    data = records.seal(manifest.model_dump_json(indent=1).encode("utf-8"))
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
    return _open(folder, kind, remedy)


def open_any(folder: Path, remedy: str) -> tuple[Manifest, str]:
    """As `open_finished`, of whatever kind."""
    return _open(folder, None, remedy)


def _open(folder: Path, kind: str | None, remedy: str) -> tuple[Manifest, str]:
    path = folder / MANIFEST
    if path.is_symlink():
        raise ArtifactError(f"{path} is a link to another file: put the file itself there")
    try:
        data = records.read_regular(path, MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        state = "is not finished" if folder.is_dir() else "does not exist"
        raise ArtifactError(f"{folder} {state}: {remedy}") from None
    try:
        raw, sealed = records.parse(data), records.is_sealed(data)
        if not isinstance(raw, dict):
            raise ValueError("not an object")
        seal = raw.pop("sha256", None)
        if not sealed and seal is not None:
            raise ValueError("its digest differs")
        _refuse_other(folder, raw, kind, remedy)
        if not sealed:
            raise ValueError("it has no digest")
        manifest = Manifest.model_validate(raw)
    except (ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(
            f"{path} is damaged ({reason}): delete {folder}, then {remedy}"
        ) from None
    return manifest, hashlib.sha256(data).hexdigest()


def _refuse_other(folder: Path, raw: dict[str, Any], kind: str | None, remedy: str) -> None:
    """Refuse another format or version of a manifest, whatever else is in it."""
    found, version = raw.get("format"), raw.get("version")
    if kind is None:
        kind = str(found)
        if kind not in VERSIONS:
            raise ArtifactError(
                f"{folder} is a {kind[:40]!r}, none that this kdpipe knows: {remedy}"
            )
    if found != kind:
        raise ArtifactError(f"{folder} is a {str(found)[:40]}, not a {kind}: {remedy}")
    if not isinstance(version, int) or version == VERSIONS[kind]:
        return
    advice = "update kdpipe" if version > VERSIONS[kind] else remedy
    raise ArtifactError(
        f"{folder} has version {str(version)[:40]} of {kind}, this kdpipe reads version"
        f" {VERSIONS[kind]}: {advice}"
    )


def is_current(
    folder: Path, kind: str, spec: dict[str, Any], inputs: dict[str, str], *, verify: bool = False
) -> bool:
    """Whether `folder` is finished, complete in size, and made by `spec` from `inputs`.

    `verify` also reads all files, and compares their digests.
    """
    manifest = current(folder, kind, spec, inputs)
    if manifest is None:
        return False
    return not verify or all(_digest(folder, file) == file.digest for file in manifest.files)


def current(
    folder: Path, kind: str, spec: dict[str, Any], *inputs: dict[str, str]
) -> Manifest | None:
    """The manifest of a folder that is finished, complete in size, and made by `spec`.

    None where it is not, or was not made from one of `inputs`.
    """
    try:
        manifest, _ = open_finished(folder, kind, "")
    except ArtifactError:
        return None
    if (manifest.spec, manifest.version) != (spec, VERSIONS[kind]) or manifest.inputs not in inputs:
        return None
    # Paths as strings: of tens of thousands of files a Path each takes longer than the disk does.
    base = os.fspath(folder)
    if any(_size(f"{base}/{file.name}") != file.bytes for file in manifest.files):
        return None
    return manifest


def digest_of(folder: Path) -> str | None:
    """The digest of a manifest as it is now, whatever it says; None where there is none."""
    path = folder / MANIFEST
    if path.is_symlink():
        return None
    try:
        data = records.read_regular(path, MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError, ArtifactError):
        return None
    return hashlib.sha256(data).hexdigest()


def refuse_stale(
    folder: Path,
    manifest: Manifest,
    spec: dict[str, Any],
    inputs: dict[str, str],
    remedy: str,
) -> None:
    """Refuse what another section of the pipeline file made, or other inputs, as far as given.

    Raises:
        ArtifactError: every field that differs, with what it was and what it is now.
    """
    known = {name: manifest.inputs.get(name) for name in inputs}
    found = [*_differences(manifest.spec, spec), *_differences(known, inputs)]
    if found:
        shown = "; ".join(found[:_SHOWN]) + (" and more" if len(found) > _SHOWN else "")
        raise ArtifactError(
            f"{folder} was made before the pipeline file or its inputs changed ({shown}): {remedy}"
        )


def check(folder: Path, file: Part, remedy: str) -> Path:
    """The path of a part whose bytes are what the manifest says; raises ArtifactError."""
    path = folder / file.name
    if _is_elsewhere(folder, file):
        raise ArtifactError(f"{path} is a link to another file: put the file itself there")
    same_size = _size(path) == file.bytes
    # Between the two its writer may take it away.
    found = _digest(folder, file) if same_size else None
    if found is None:
        raise ArtifactError(
            f"{path} is missing or cut short ({file.bytes} bytes expected): {remedy}"
        )
    if found != file.digest:
        raise ArtifactError(f"{path} is damaged (digest differs from the manifest): {remedy}")
    return path


def check_all(folder: Path, kind: str, remedy: str) -> Manifest:
    """A finished folder, every part of which is read; raises ArtifactError."""
    manifest, _ = open_finished(folder, kind, remedy)
    for file in manifest.files:
        check(folder, file, f"delete {folder}, then {remedy}")
    return manifest


def readable(record: dict[str, Any]) -> bytes:
    """A record as JSON that people read: indented, keys in the order given."""
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _differences(made: Any, wanted: Any, at: str = "") -> Iterator[str]:
    """`train.seed: 1 when it was made, 2 now` for each field that differs."""
    if made == wanted:
        return
    if isinstance(made, dict) and isinstance(wanted, dict):
        for key in {**wanted, **made}:
            yield from _differences(made.get(key), wanted.get(key), f"{at}.{key}" if at else key)
    elif isinstance(made, list) and isinstance(wanted, list) and len(made) == len(wanted):
        for place, (one, other) in enumerate(zip(made, wanted, strict=True)):
            yield from _differences(one, other, f"{at}.{place}")
    else:
        was, now = (json.dumps(value)[:70] for value in (made, wanted))
        yield f"{at}: {was} when it was made, {now} now"


def _digest(folder: Path, file: Part) -> str | None:
    """Of the bytes that are there; None without a file."""
    try:
        return io.digest_file(folder / file.name, file.digest.partition(":")[0])
    except FileNotFoundError:
        return None


def _size(path: str | Path) -> int:
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def _is_elsewhere(folder: Path, file: Part) -> bool:
    # Folders on the way may be links as well.
    whole = os.path.realpath(folder)
    return os.path.realpath(folder / file.name) != os.path.join(whole, file.name)
