"""What every kind of student has: a model to build, and files it may start from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe import io
from kdpipe.config import Frozen
from kdpipe.errors import ArtifactError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kdpipe.encoder import Encoder
    from kdpipe.parts import HeadKind
    from kdpipe.tokenizer import Tokenizer


class StudentKind(Frozen, ABC):
    """How a student comes into being."""

    kind: str

    @abstractmethod
    def build(self, teacher: Encoder | None, tokenizer: Tokenizer) -> PreTrainedModel:
        """The model before training; no teacher: there is none, or it reads other tokens.

        Raises:
            UsageError: what cannot be built.
        """

    def headed(self, kind: HeadKind) -> Encoder | None:
        """The model whose head of this kind the student starts with; None: there is none."""
        return None

    def files(self) -> list[str]:
        """Files of the user's own that it starts from."""
        return []

    def inputs(self, root: Path) -> dict[str, str]:
        """Digests of what it starts from beside its section and its caches, by name."""
        return {}


def digest_of(path: str, key: str, root: Path) -> str:
    """sha256 of a file that `key` names; raises ArtifactError where it is not there."""
    if not (root / path).is_file():
        raise ArtifactError(f"{path} does not exist: check {key!r} of the student's model")
    return io.digest_file(root / path, "sha256")
