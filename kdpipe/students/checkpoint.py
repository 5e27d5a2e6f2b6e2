"""A student that starts from a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdpipe.config import Frozen
from kdpipe.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kdpipe.encoder import Encoder


class FromCheckpoint(Frozen):
    """An encoder from a folder or the hub; it has to read the same token ids as the teacher."""

    kind: Literal["checkpoint"]
    model: str
    """A local folder or a hub id."""
    revision: str | None = None
    """A commit, tag or branch of the hub; None is the default branch."""

    def identity_of_start(self) -> str:
        """sha256 of all that decides what the checkpoint says."""
        from kdpipe.hub import find_model
        from kdpipe.modules import encoder_identity, head_of

        folder = find_model(self.model, revision=self.revision)
        return encoder_identity(folder, head_of(folder))

    def build(self, teacher: Encoder, vocabulary: int) -> PreTrainedModel:
        """The transformer; raises UsageError where its vocabulary is too small."""
        from kdpipe.hub import find_model
        from kdpipe.load import load_encoder
        from kdpipe.modules import head_of

        folder = find_model(self.model, revision=self.revision)
        model = load_encoder(folder, head_of(folder)).base
        if model.config.vocab_size < vocabulary:
            raise UsageError(
                f"{self.model} has {model.config.vocab_size} tokens, the corpus has {vocabulary}:"
                " start from a checkpoint with the corpus' own tokenizer"
            )
        return model
