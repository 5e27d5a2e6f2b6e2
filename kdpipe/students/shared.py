"""A student whose transformer is that of other students too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdpipe.config import Name
from kdpipe.students.base import StudentKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kdpipe.encoder import Encoder
    from kdpipe.tokenizer import Tokenizer


class Shared(StudentKind):
    """A body that several students have in common, trained by the objectives of them all."""

    kind: Literal["shared"]
    body: Name
    """A name in `bodies`."""

    def build(self, teacher: Encoder | None, tokenizer: Tokenizer) -> PreTrainedModel:
        """Never called: `Pipeline.student` puts the model of the body in its place."""
        raise AssertionError(f"the body {self.body!r} is built by its own section")
