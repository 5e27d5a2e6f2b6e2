"""Labels of rows as tensors that a loss can use.

Legend: B rows, N tokens of all rows together, M masked ones, C classes. -100 is no label, NaN no
number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdpipe.errors import ArtifactError
from kdpipe.masking import UNMASKED
from kdpipe.parts import Problem, some
from kdpipe.progress import counted
from kdpipe.tokenizer import Encoded, first_tokens

IGNORED = -100


@dataclass(frozen=True)
class Gold:
    """What labels mean to a model's head."""

    problem: Problem
    classes: tuple[str, ...]

    def of(self, labels: Sequence[Any], rows: Encoded) -> Tensor:
        """Labels of rows, in their order.

        `single_label_classification`: [B] int64, class ids. `multi_label_classification`: [B, C]
        fp32, 0 or 1. `regression`: [B] fp32. `token`: [N] int64, class ids at the first token of
        each word. `span`: [B, 2] int64, first and last token of the answer within the row.
        `mlm`: [M] int64, what each masked token was, whatever the labels are.

        Raises:
            ArtifactError: a label that is none of the classes, or not of this kind.
        """
        if self.problem == "regression":
            return torch.tensor([self._number(label) for label in labels])
        if self.problem == "span":
            return torch.tensor([_pair(label) for label in labels], dtype=torch.int64)
        if self.problem == "token":
            return self._of_tokens(labels, rows)
        if self.problem == "mlm":
            assert rows.original is not None, "a corpus without masked tokens is refused before"
            return torch.from_numpy(rows.original[rows.original != UNMASKED])
        if self.problem == "multi_label_classification":
            hot = torch.full((len(labels), len(self.classes)), float(IGNORED))
            for row, names in enumerate(labels):
                if names is not None:
                    hot[row] = 0.0
                    hot[row, [self._place(name) for name in _several(names)]] = 1.0
            return hot
        return torch.tensor([self._place(label) for label in labels], dtype=torch.int64)

    def _of_tokens(self, labels: Sequence[Any], rows: Encoded) -> Tensor:
        found = np.full(len(rows.ids), IGNORED, np.int64)
        if rows.word_of is None:
            if any(label is not None for label in labels):
                raise ArtifactError(
                    "the labels are of whole texts, the head of the model is about words: give a"
                    " tag for each word of a list, or the model a head of kind: sequence"
                )
            return torch.from_numpy(found)
        begins, ends = first_tokens(rows), np.cumsum(rows.lengths)
        for tags, first, last in zip(labels, ends - rows.lengths, ends, strict=True):
            if tags is not None:
                classes = np.array([self._place(tag) for tag in _several(tags)], np.int64)
                here = slice(first, last)
                found[here][begins[here]] = classes[rows.word_of[here][begins[here]]]
        return torch.from_numpy(found)

    def _place(self, label: Any) -> int:
        if label is None:
            return IGNORED
        try:
            return self.classes.index(str(label))
        except ValueError:
            raise ArtifactError(
                f"label {str(label)!r} is none of the"
                f" {counted(len(self.classes), 'class', 'classes')} of the model"
                f" ({some(self.classes)}): give the head these classes, or mend the labels"
            ) from None

    def _number(self, label: Any) -> float:
        if label is None:
            return float("nan")
        if not isinstance(label, int | float):
            raise ArtifactError(
                f"label {label!r} is no number, which a regression needs: choose the right"
                " label_column"
            )
        return float(label)


def _several(names: Any) -> Sequence[Any]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ArtifactError(
            f"label {names!r} is one value, where several belong to a row: set label_separator of"
            " the source, or the right label_column"
        )
    return names


def _pair(label: Any) -> tuple[int, int]:
    if label is None:
        return IGNORED, IGNORED
    ends = _several(label)
    if len(ends) != 2 or not all(isinstance(end, int) for end in ends):
        raise ArtifactError(
            f"label {label!r} is no first and last token, which a head of kind: span needs: use a"
            " source of kind: squad"
        )
    return ends[0], ends[1]


def labelled(gold: Tensor) -> Tensor:
    """[B] or [N] bool: which rows or tokens have a label."""
    there = ~gold.isnan() if gold.is_floating_point() else gold != IGNORED
    # Of several numbers to a row, one is enough.
    return (there & (gold != IGNORED)).flatten(1).any(1) if gold.dim() > 1 else there
