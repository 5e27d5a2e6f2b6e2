"""A part of what some teacher said that the user has already, in a file: nothing has to be run."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from kdpipe.config import Frozen, nearest
from kdpipe.errors import ArtifactError
from kdpipe.parts import TOKEN_LOGITS, Part, Problem
from kdpipe.targets.question import Question, Storage

ARRAYS = (".npy", ".safetensors")
TABLES = (".parquet", ".arrow")
Text = Annotated[str, StringConstraints(min_length=1)]
Per = Literal["row", "word", "token"]
"""What one vector is about."""
_OF_TABLES = ("id_column", "text_column", "text_pair_column", "value_column")
STATES = ("hidden", "query", "key", "value")
"""Parts of a layer, one vector for each token."""
_OF_ROWS = ("single_label_classification", "multi_label_classification", "regression")
_OF_LOGITS = ("per", "classes", "problem_type")
_SCORE, _ENDS = ("score",), ("start", "end")
"""What transformers and students call the one logit of a regression, and those of a span."""


class Imported(Frozen):
    """One vector for each row of the corpus, or for each of its words or tokens.

    Rows are found by their number or by their text.
    """

    part: Literal["embedding", "logits", "hidden", "query", "key", "value"]
    """What the vectors are; the last four are one for each token."""
    per: Per = "row"
    """Of logits: whether there is a vector for each row, for each of its words, or for each of its
    tokens, special ones included, as the corpus has them."""
    layer: Annotated[int, Field(ge=0)] | None = None
    """Of `hidden`, `query`, `key` and `value`: 1 is the first, 0 (of `hidden`) the embeddings."""
    file: Text
    """`.npy`: `[V, D]`; `.safetensors`: tensor `values` `[V, D]`, with `lengths` `[R]` where a row
    has several vectors, and `rows` `[R]` where rows do not stand in the order of the corpus;
    `.parquet` and `.arrow`: a column of lists, or of lists of lists."""
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
    """Of logits: names in the order of the numbers of a vector; none of a regression or a span."""
    problem_type: Literal[
        "single_label_classification", "multi_label_classification", "regression", "span"
    ] = "single_label_classification"
    """Of logits: what they mean; `span`: of each token, whether an answer starts or ends there."""
    storage: Storage | None = None
    """How a value is kept; None: fp32 for logits, fp16 for all else."""

    def path(self, root: Path) -> Path:
        """Where it is; raises ArtifactError where it is not."""
        path = root / self.file
        if not path.is_file():
            raise ArtifactError(f"{path} does not exist: check 'files' in the pipeline file")
        return path

    @property
    def suffix(self) -> str:
        """Which format it has."""
        return PurePath(self.file).suffix.lower()

    @property
    def about(self) -> Per:
        """What one vector is about."""
        return "token" if self.part in STATES else self.per

    @property
    def what(self) -> Part:
        """The part that a cache of it has."""
        if self.part == "logits" and self.per != "row":
            return TOKEN_LOGITS
        return Part(self.part, self.layer)

    @property
    def names(self) -> tuple[str, ...]:
        """What the logits are about, in their order; empty for other parts."""
        if self.part != "logits":
            return ()
        return self.classes or (_ENDS if self.problem_type == "span" else _SCORE)

    @property
    def problem(self) -> Problem | None:
        """What the logits mean; None for other parts."""
        if self.part != "logits":
            return None
        return self.problem_type if self.per == "row" or self.problem_type == "span" else "token"

    def questions(self) -> list[Question]:
        """One question: the part, of each row, word or token."""
        part, layer = self.what.name, self.what.layer
        storage = self.storage or ("fp32" if self.part == "logits" else "fp16")
        return [Question(part=part, layer=layer, storage=storage)]

    @model_validator(mode="after")
    def _keys_fit(self) -> Imported:
        if self.suffix not in ARRAYS + TABLES:
            allowed = nearest(self.suffix, [*ARRAYS, *TABLES])
            raise ValueError(f"{self.file}: unknown format {self.suffix!r}: {allowed}")
        if self.suffix == ".npy" and self.about != "row":
            raise ValueError(
                f"{self.file} does not tell how many vectors each row has: use .safetensors,"
                " .parquet or .arrow"
            )
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
    def _states_have_a_layer(self) -> Imported:
        if self.part not in STATES and self.layer is not None:
            raise ValueError(f"key 'layer' is about {', '.join(STATES)}: take it out")
        if self.part in STATES and self.layer is None:
            raise ValueError(f"{self.part} needs 'layer', 1 is the first")
        if self.part in STATES[1:] and self.layer == 0:
            raise ValueError(f"{self.part} of layer 0: 1 is the first layer")
        return self

    @model_validator(mode="after")
    def _logits_have_classes(self) -> Imported:
        if self.part != "logits":
            for key in _OF_LOGITS:
                if key in self.model_fields_set:
                    raise ValueError(f"key {key!r} is about logits: take it out")
            return self
        fit = {"row": _OF_ROWS, "word": _OF_ROWS[:1], "token": (_OF_ROWS[0], "span")}[self.per]
        if self.problem_type not in fit:
            raise ValueError(
                f"problem_type {self.problem_type!r} is not about a {self.per}: allowed:"
                f" {', '.join(fit)}"
            )
        if self.problem_type in {"regression", "span"}:
            if self.classes is not None:
                raise ValueError(f"a {self.problem_type} has no classes: take them out")
        elif self.classes is None:
            raise ValueError("logits need 'classes', in the order of the numbers of a vector")
        return self
