"""What a pipeline file says about augmentation: of which texts, in which ways, how often.

TinyBERT's numbers of copies, by task: 30 for CoLA, MRPC, RTE and STS-B, 20 for SST-2 and QNLI, 10
for MNLI and QQP. They are written as `copies`, since no file of texts says which task it is of.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from kdpipe.augment.methods import MaskedLm, Method, TinyBert, WordVectors
from kdpipe.config import Frozen
from kdpipe.sources import Source


class AugmentationSpec(Frozen):
    """Texts, and altered copies of them that keep their labels."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    methods: Annotated[tuple[Method, ...], Field(min_length=1)]
    """Each makes copies of its own."""
    copies: PositiveInt = 1
    """Copies that each method tries to make of a text, and of each text of a pair; a copy that is
    there already does not count again. TinyBERT: 30 for CoLA, MRPC, RTE and STS-B, 20 for SST-2 and
    QNLI, 10 for MNLI and QQP."""
    keep_original: bool = True
    """Write each row itself too, before its copies."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of all that is drawn, together with the text of a row."""

    @property
    def models(self) -> list[str]:
        """Folders and hub ids of models that are read."""
        return [method.model for method in self.methods if isinstance(method, MaskedLm | TinyBert)]

    @property
    def vectors(self) -> list[str]:
        """Files of vectors that are read, relative to the project."""
        kinds = WordVectors | TinyBert
        return [method.vectors for method in self.methods if isinstance(method, kinds)]
