"""The store of shards as a whole: who uses what, what is damaged, what nobody names.

A shard is named if a manifest in `artifacts/caches/` lists it, or if it has a second hard link: the
cache of another project that shares the store. Shards of a cache that is being made have neither
yet, so whoever removes some holds the lock of the store alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kdpipe import artifact, io, records
from kdpipe.cache import KIND, REMEDY
from kdpipe.errors import ArtifactError, LockedError, explain
from kdpipe.progress import counted
from kdpipe.store import FORMAT, Receipt, Store, key_of
from kdpipe.targets import Question
from kdpipe.tensor_files import Kind, header, not_finite, shard_kinds

_WHAT = "the store"
_PAIR = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62})\.(safetensors|json)")
_OTHER = re.compile(r"lock|teacher-[0-9a-f]{32}\.json")
_UNKNOWN = "?"


@dataclass(frozen=True)
class Shard:
    """One key: the answer to a question about a block."""

    key: str
    path: Path
    """It need not be there: a receipt may be alone."""
    bytes: int
    links: int
    """Hard links, that in the store included."""


@dataclass
class Line:
    """The answers of a teacher to a question."""

    teacher: str
    question: str
    shards: int = 0
    bytes: int = 0
    used_by: set[str] = field(default_factory=set)
    """Caches of this project."""
    unnamed: list[Shard] = field(default_factory=list)
    """What no cache names, of this project or of another."""


@dataclass(frozen=True)
class Damage:
    """Something that does not belong in the store as it is."""

    line: str
    """For people: the file, and what is wrong."""
    key: str | None
    """What is dropped to repair it; None for a file that is not the store's."""


def ledger(store: Store, root: Path) -> list[Line]:
    """What is in the store, by teacher and question; `root` is the project.

    Raises:
        ArtifactError: the manifest of a cache is damaged, so that nobody knows what it names.
    """
    named, lines = names_of(root), dict[tuple[str, str], Line]()
    for shard in shards(store):
        asked = _asked(store, shard.key)
        line = lines.setdefault(asked, Line(*asked))
        users = named.get(shard.key[:32], set())
        line.shards += 1
        line.bytes += shard.bytes
        line.used_by |= users
        if not users and shard.links < 2:
            line.unnamed.append(shard)
    return [lines[asked] for asked in sorted(lines)]


def names_of(root: Path) -> dict[str, set[str]]:
    """Heads of keys -> the finished caches of a project that name them; raises as `ledger` does."""
    named = dict[str, set[str]]()
    for path in sorted((root / "artifacts" / "caches").glob(f"*/{artifact.MANIFEST}")):
        manifest, _ = artifact.open_finished(path.parent, KIND, REMEDY)
        for part in manifest.files:
            head = part.name.removesuffix(".safetensors").rpartition("-")[2]
            named.setdefault(head, set()).add(path.parent.name)
    return named


def shards(store: Store) -> Iterator[Shard]:
    """All keys of the store, in their order."""
    for key in sorted({match[2] for _, match in _files(store) if match is not None}):
        path = store.path(key)
        try:
            state = path.stat()
        except FileNotFoundError:
            yield Shard(key, path, 0, 0)
        else:
            yield Shard(key, path, state.st_size, state.st_nlink)


def collect(store: Store, root: Path, *, remove: bool) -> list[Line]:
    """What no cache names, by teacher and question; `remove` drops it, receipts first.

    Raises:
        LockedError: a `cache-teacher` is at work, whose shards no manifest names yet.
        ArtifactError: as `ledger` does.
    """
    if not store.root.is_dir():
        return []
    with io.lock(store.lock, _WHAT):
        found = [line for line in ledger(store, root) if line.unnamed]
        if remove:
            io.sweep(store.root)
            for shard in (shard for line in found for shard in line.unnamed):
                store.drop(shard.key)
    return found


def verify(
    store: Store, *, repair: bool = False, advance: Callable[[int], None] = lambda count: None
) -> list[Damage]:
    """All that is wrong in the store, read from end to end; `advance` is told of bytes.

    `repair` drops damaged shards, which `cache-teacher` then computes again.

    Raises:
        LockedError: something is removed from the store; or, to repair it, added.
    """
    if not store.root.is_dir():
        return []
    with io.lock(store.lock, _WHAT, shared=not repair):
        found = [
            Damage(f"{path} is no file of the store: move it away", None)
            for path, match in _files(store)
            if match is None
        ]
        orphans = list[Shard]()
        for shard in shards(store):
            if shard.links and not store.receipt_path(shard.key).exists():
                orphans.append(shard)
            elif (wrong := _wrong(store, shard)) is not None:
                found.append(Damage(f"{shard.path}: {wrong}", shard.key))
            advance(shard.bytes)
        if repair:
            found += _without_receipt(store, orphans)
            for key in [one.key for one in found if one.key is not None]:
                store.drop(key)
    if orphans and not repair:
        # A writer that is at work gives a shard its receipt a moment after its name.
        try:
            with io.lock(store.lock, _WHAT):
                found += _without_receipt(store, orphans)
        except LockedError:
            pass
    return found


def _without_receipt(store: Store, orphans: list[Shard]) -> list[Damage]:
    return [
        Damage(f"{shard.path}: it has no receipt, so it does not count", shard.key)
        for shard in orphans
        if not store.receipt_path(shard.key).exists()
    ]


def _files(store: Store) -> Iterator[tuple[Path, re.Match[str] | None]]:
    """Files of shards and receipts with their keys, and those that are not the store's."""
    for path in sorted(store.root.rglob("*")):
        inside = path.relative_to(store.root).as_posix()
        match = _PAIR.fullmatch(inside)
        known = _OTHER.fullmatch(inside) or path.name.startswith(io.TEMPORARY)
        if match is not None or not (known or path.is_dir()):
            yield path, match


def _asked(store: Store, key: str) -> tuple[str, str]:
    """The teacher and the name of the question, as far as the receipt tells."""
    try:
        receipt = _receipt(store, key)
        question = Question.model_validate(receipt.question.get("ask")).name
    except (ArtifactError, ValueError, FileNotFoundError):
        return _UNKNOWN, _UNKNOWN
    return str(receipt.question.get("teacher", _UNKNOWN))[:12], question


def _receipt(store: Store, key: str) -> Receipt:
    return Receipt.model_validate(records.read_sealed(store.receipt_path(key)))


def _wrong(store: Store, shard: Shard) -> str | None:
    """What is wrong with a shard that has a receipt; None where nothing is."""
    try:
        receipt = _receipt(store, shard.key)
        if receipt.format > FORMAT:
            return f"its receipt has format {receipt.format}, this kdpipe reads up to {FORMAT}"
        question = Question.model_validate(receipt.question.get("ask"))
    except (ArtifactError, ValueError) as error:
        return f"its receipt is damaged ({str(error).splitlines()[0]})"
    if key_of(receipt.question) != shard.key:
        return "its receipt is that of another question"
    if not shard.links:
        return "its receipt is there, and the shard is not"
    if shard.bytes != receipt.bytes:
        return f"{shard.bytes} bytes, {receipt.bytes} in its receipt"
    try:
        if io.digest_file(shard.path) != receipt.digest:
            return "its digest differs from its receipt"
        return _wrong_tensors(shard.path, question)
    except (ArtifactError, OSError) as error:
        return str(explain(error) or error)


def _wrong_tensors(path: Path, question: Question) -> str | None:
    found = header(path, "drop it")
    shape = found["values"].shape if "values" in found else ()
    vectors, width = shape if len(shape) == 2 else (0, 0)
    rows = found.get("rows", Kind("", (0,))).shape[0]
    if found != shard_kinds(question, rows, vectors, width):
        return f"its tensors ({', '.join(sorted(found)) or 'none'}) are none of {question.name}"
    bad = sum(count for _, count in not_finite(path))
    return f"NaN or Inf in {counted(bad, 'number')}" if bad else None
