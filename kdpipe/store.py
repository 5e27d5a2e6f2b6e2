"""The store of shards: a file is named by the question whose answer it is.

`<root>/<k2>/<key>.safetensors` holds the tensors, `<key>.json` is its receipt, written after it: a
shard without one does not count. What counts is never edited or replaced: it is the answer, whoever
asked for it first, and two writers cannot harm each other.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from kdpipe import io, records
from kdpipe.config import Frozen
from kdpipe.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 3
"""Of shards and receipts; enters every key."""


class Receipt(Frozen):
    """The record that a shard is whole."""

    format: int
    question: dict[str, Any]
    """All that the key is the digest of."""
    made_by: dict[str, Any]
    """What does not enter the key: device, batch budget, library versions."""
    bytes: int = Field(ge=0, lt=2**63)
    digest: str


def store_root(project: Path) -> Path:
    """`$KDPIPE_STORE`, else `.kdpipe/store` in the project (DVC's, where DVC runs the stage)."""
    stated = os.environ.get("KDPIPE_STORE")
    return (
        Path(stated) if stated else Path(os.environ.get("DVC_ROOT", project)) / ".kdpipe" / "store"
    )


def key_of(question: dict[str, Any]) -> str:
    """The name of the shard that answers `question`, in every store."""
    return io.identity({"format": FORMAT, **question})


@dataclass(frozen=True)
class Store:
    """A folder of shards."""

    root: Path

    def key(self, question: dict[str, Any]) -> str:
        """The name of the shard that answers `question`."""
        return key_of(question)

    def path(self, key: str) -> Path:
        """Where a shard is."""
        return self.root / key[:2] / f"{key}.safetensors"

    def find(self, key: str) -> Receipt | None:
        """The receipt of a shard that is there, by size; None where it has to be computed."""
        try:
            receipt = Receipt.model_validate(records.read_sealed(self.receipt_path(key)))
            found = self.path(key).stat()
        except (FileNotFoundError, ValueError, ArtifactError):
            return None
        # A pipe would never begin.
        whole = stat.S_ISREG(found.st_mode) and found.st_size == receipt.bytes
        about = receipt.format == FORMAT and self.key(receipt.question) == key
        return receipt if whole and about else None

    def is_damaged(self, key: str) -> bool:
        """Whether there is a receipt that does not count."""
        return self.receipt_path(key).exists() and self.find(key) is None

    def intact(self, key: str) -> bool:
        """Whether the shard is there and its bytes are what the receipt says; reads all of it."""
        receipt = self.find(key)
        return receipt is not None and io.digest_file(self.path(key)) == receipt.digest

    def put(
        self, question: dict[str, Any], tensors: dict[str, Tensor], made_by: dict[str, Any]
    ) -> str:
        """Keep the answer to `question`; returns its key. On return it survives a power cut."""
        from safetensors.torch import save

        key, data = self.key(question), save(tensors)
        path, digest = self.path(key), io.digest_bytes(data)
        io.make_folder(path.parent)
        receipt = Receipt(
            format=FORMAT, question=question, made_by=made_by, bytes=len(data), digest=digest
        )
        # What is there may be damaged, a shard without a receipt, or half of another writer's pair.
        while not self.intact(key):
            if path.exists() or self.receipt_path(key).exists():
                self.drop(key)
            io.publish(path, data)
            io.publish(self.receipt_path(key), records.seal(io.canonical(receipt.identity())))
        return key

    @property
    def lock(self) -> Path:
        """Held shared by who adds shards, and alone by who removes some that no cache names."""
        return self.root / "lock"

    def drop(self, key: str) -> None:
        """Forget a shard: its receipt first, so that none is ever about another file."""
        if self.path(key).parent.is_dir():
            io.forget(self.receipt_path(key))
            io.forget(self.path(key))

    def receipt_path(self, key: str) -> Path:
        """Where the receipt of a shard is."""
        return self.path(key).with_suffix(".json")
