"""What replacing words needs beside the text: models and vectors, loaded once and only if asked."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe import io
from kdpipe.errors import ArtifactError
from kdpipe.hub import find_model
from kdpipe.known_tokenizers import tokenizer_of
from kdpipe.modules import HeadSpec, encoder_identity

if TYPE_CHECKING:
    import torch

    from kdpipe.augment.masked_lm import MaskedModel
    from kdpipe.augment.neighbours import Neighbours


@dataclass(frozen=True, eq=False)
class Tools:
    """The models and vectors of one run."""

    root: Path
    """The folder that paths of vectors start from."""
    device: torch.device
    """Where models compute."""

    @functools.cache  # noqa: B019 - lives as long as its process
    def masked_model(self, model: str, revision: str | None) -> MaskedModel:
        """A masked language model; raises ArtifactError where it cannot be had."""
        from kdpipe.augment.masked_lm import load_masked_model

        return load_masked_model(find_model(model, revision=revision), self.device)

    @functools.cache  # noqa: B019 - lives as long as its process
    def neighbours(self, vectors: str, vocabulary: int) -> Neighbours:
        """The words of a file of vectors; raises ArtifactError where it cannot be read."""
        from kdpipe.augment.neighbours import read_neighbours

        return read_neighbours(self.root / vectors, vocabulary)


def model_state(model: str, revision: str | None, root: Path) -> str:
    """sha256 of all that a model's candidates depend on; `root` is the project."""
    folder = find_model(model, revision=revision)
    fingerprint = tokenizer_of(folder, root).fingerprint
    return io.identity([encoder_identity(folder, HeadSpec()), fingerprint])


def vectors_state(path: Path) -> str:
    """The digest of a file of vectors; raises ArtifactError where it is not there."""
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist: check 'vectors' in the pipeline file")
    return io.digest_file(path)
