"""A student that starts from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdpipe.errors import UsageError
from kdpipe.students.base import StudentKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kdpipe.encoder import Encoder
    from kdpipe.parts import HeadKind
    from kdpipe.tokenizer import Tokenizer


class FromCheckpoint(StudentKind):
    """An encoder from a folder or the hub; it has to read the same token ids as the teacher."""

    kind: Literal["checkpoint"]
    model: str
    """A local folder or a hub id."""
    revision: str | None = None
    """A commit, tag or branch of the hub; None is the default branch."""
    package: str | None = None
    """An installed Python package that carries the model's files: read in place of a download."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of `model.safetensors`: any other file is refused."""

    def folder(self) -> Path:
        """Where its files are; raises ArtifactError where they cannot be had."""
        from kdpipe.hub import find_model

        return find_model(
            self.model, revision=self.revision, package=self.package, sha256=self.sha256
        )

    def inputs(self, root: Path) -> dict[str, str]:
        """The digest of all that decides what the checkpoint says."""
        from kdpipe.modules import encoder_identity, head_of

        folder = self.folder()
        return {"start": encoder_identity(folder, head_of(folder))}

    def build(self, teacher: Encoder | None, tokenizer: Tokenizer) -> PreTrainedModel:
        """The model; raises UsageError where its vocabulary is too small, or of other words."""
        from kdpipe.load import load_encoder
        from kdpipe.modules import head_of, transformer_folder
        from kdpipe.tokenizer import load_tokenizer

        folder = self.folder()
        if tokenizer.by_words:
            own = load_tokenizer(transformer_folder(folder))
            if own.fingerprint != tokenizer.fingerprint:
                raise UsageError(
                    f"{self.model} has other words than the corpus: set tokenizer: {self.model} for"
                    " that corpus and run 'kdpipe tokenize'"
                )
        model = load_encoder(folder, head_of(folder)).base
        if model.config.vocab_size < tokenizer.vocabulary:
            raise UsageError(
                f"{self.model} has {model.config.vocab_size} tokens, the corpus has"
                f" {tokenizer.vocabulary}: start from a checkpoint with the corpus' own tokenizer"
            )
        return model

    def headed(self, kind: HeadKind) -> Encoder | None:
        """The checkpoint itself, where it has such a head."""
        from kdpipe.hub import read_json
        from kdpipe.load import load_encoder
        from kdpipe.modules import head_of, transformer_folder

        folder = self.folder()
        names = read_json(transformer_folder(folder) / "config.json").get("architectures") or []
        guesses = any(str(name).endswith("ForMaskedLM") for name in names)
        if kind == "mlm" and not guesses:
            return None
        found = load_encoder(folder, head_of(folder), mlm=kind == "mlm")
        return found if found.answers == kind else None
