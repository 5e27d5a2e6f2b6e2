"""A part of what some teacher said that the user has already, in a file: nothing has to be run."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from kdpipe.config import Frozen, nearest
from kdpipe.parts import Problem
from kdpipe.targets.question import Question, Storage

ARRAYS = (".npy", ".safetensors")
TABLES = (".parquet", ".arrow")
Text = Annotated[str, StringConstraints(min_length=1)]
_OF_TABLES = ("id_column", "text_column", "text_pair_column", "value_column")
_OF_LOGITS = ("classes", "problem_type")
_SCORE = ("score",)
"""What transformers and students call the one logit of a regression."""


class Imported(Frozen):
    """One vector for each row of the corpus, found by its number or by its text."""

    part: Literal["embedding", "logits"]
    """What the vectors are."""
    file: Text
    """`.npy`: `[V, D]`; `.safetensors`: tensor `values` `[V, D]`, and `rows` `[V]` where they do
    not stand in the order of the corpus; `.parquet` and `.arrow`: a column of lists."""
    id_column: Text | None = None
    """Column of a table with the numbers of rows in the corpus, from 0; None: they stand in the
    order of the corpus, or are found by `text_column`."""
    text_column: Text | None = None
    """Column of a table with the text of a row, or the list of its words."""
    text_pair_column: Text | None = None
    """Column of a table with the second text, for a corpus of pairs."""
    value_column: Text = "values"
    """Column of a table with the vectors."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Of logits: names in the order of the numbers of a vector; none of a regression."""
    problem_type: Literal[
        "single_label_classification", "multi_label_classification", "regression"
    ] = "single_label_classification"
    """Of logits: what they mean."""
    storage: Storage | None = None
    """How a value is kept; None: fp16 for embeddings, fp32 for logits."""

    @property
    def suffix(self) -> str:
        """Which format it has."""
        return PurePath(self.file).suffix.lower()

    @property
    def names(self) -> tuple[str, ...]:
        """What the logits are about, in their order; empty for embeddings."""
        if self.part == "embedding":
            return ()
        return self.classes or _SCORE

    @property
    def problem(self) -> Problem | None:
        """What the logits mean; None for embeddings."""
        return None if self.part == "embedding" else self.problem_type

    def questions(self) -> list[Question]:
        """One question: the part, of each row."""
        storage = self.storage or ("fp16" if self.part == "embedding" else "fp32")
        return [Question(part=self.part, layer=None, storage=storage)]

    @model_validator(mode="after")
    def _keys_fit(self) -> Imported:
        if self.suffix not in ARRAYS + TABLES:
            allowed = nearest(self.suffix, [*ARRAYS, *TABLES])
            raise ValueError(f"{self.file}: unknown format {self.suffix!r}: {allowed}")
        if self.suffix in ARRAYS:
            for key in _OF_TABLES:
                if key in self.model_fields_set:
                    raise ValueError(f"key {key!r} is about tables: {self.file} has no columns")
        if self.id_column is not None and self.text_column is not None:
            raise ValueError("give either 'id_column' or 'text_column', to find rows by")
        if self.text_pair_column is not None and self.text_column is None:
            raise ValueError("key 'text_pair_column' needs 'text_column', the first of the texts")
        return self

    @model_validator(mode="after")
    def _logits_have_classes(self) -> Imported:
        if self.part == "embedding":
            for key in _OF_LOGITS:
                if key in self.model_fields_set:
                    raise ValueError(f"key {key!r} is about logits: take it out")
        elif self.problem_type == "regression" and self.classes is not None:
            raise ValueError("a regression has no classes: take them out")
        elif self.problem_type != "regression" and self.classes is None:
            raise ValueError("logits need 'classes', in the order of the numbers of a vector")
        return self
