"""Objective `labels`: the student's head says what people said, or what the teacher would say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from kdpipe.errors import UsageError
from kdpipe.objectives.base import Objective, Pairing, Seen, Unit
from kdpipe.objectives.logits import logits_part, same_head
from kdpipe.parts import Needs, PartName

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.nets.crf import CRF


class MatchLabels(Objective):
    """Match labels: cross-entropy, of each label's sigmoid for several, squared error for numbers.

    Rows and tokens without a label do not count. The start of a span and its end are each chosen
    among all tokens of a window, those of the question and special ones included; in windows
    without the whole answer both are the first token.
    """

    kind: Literal["labels"]
    pseudo_labels: bool = False
    """Where there is no gold label, take the teacher's most likely class for one."""
    confidence: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Only if the teacher gives it more than this probability."""

    @model_validator(mode="after")
    def _confidence_of_pseudo_labels(self) -> MatchLabels:
        if self.confidence and not self.pseudo_labels:
            raise ValueError("key 'confidence' is about pseudo_labels: set pseudo_labels: true")
        return self

    @property
    def from_teacher(self) -> bool:
        """Whether there has to be a cache to learn from."""
        return self.pseudo_labels

    @property
    def pseudo_labelled(self) -> bool:
        """Whether it makes labels for rows that have none."""
        return self.pseudo_labels

    @property
    def reads_labels(self) -> bool:
        """Whether it looks at the labels of the corpus."""
        return True

    @property
    def learns_from(self) -> frozenset[PartName]:
        """What files must have for it."""
        return frozenset({"logits", "token_logits"})

    def unit(self, pair: Pairing) -> Unit:
        """What the loss is a mean over."""
        if not self.pseudo_labels:
            return "labels"
        return "words" if pair.student.problem == "token" else "rows"

    def needs(self, pair: Pairing) -> tuple[Needs, Needs]:
        """Logits; raises UsageError for a student without a head, or with another one for both."""
        problem = pair.student.problem
        if problem is None:
            raise UsageError("objective 'labels': the student has no logits: give it a head")
        if self.pseudo_labels and problem not in {"single_label_classification", "token"}:
            raise UsageError(
                f"objective 'labels': pseudo_labels are classes, the student's head is {problem}:"
                " use kind: logits"
            )
        if self.pseudo_labels:
            same_head("labels", pair)
        part = frozenset({logits_part(pair)})
        return part, part if self.pseudo_labels else Needs()

    def compute(self, seen: Seen, pair: Pairing, learned: nn.ModuleDict) -> Tensor:
        """The loss, a scalar; 0 where no row has a label."""
        from kdpipe import losses
        from kdpipe.losses.labels import IGNORED

        part = logits_part(pair)
        logits, gold = seen.student[part], seen.gold
        if gold is None:
            assert self.pseudo_labels, "labels without a teacher come from the corpus"
            gold = logits.new_full(logits.shape[:1], IGNORED).long()
        problem = pair.student.problem
        if problem == "regression":
            return losses.regression_mse(logits.squeeze(-1), gold)
        if problem == "multi_label_classification":
            return losses.binary_cross_entropy(logits, gold)
        if problem == "span":
            mask, both = seen.student.mask(), seen.student.padded(part)
            ends = [losses.span_logits(both[..., end], mask) for end in (0, 1)]
            start, last = (losses.cross_entropy(ends[end], gold[:, end]) for end in (0, 1))
            return (start + last) / 2.0
        if self.pseudo_labels:
            probability, likely = seen.teacher[part].softmax(-1).max(-1)
            sure = probability > self.confidence
            if seen.words is not None and part.per_token:
                # What a tagger says about other tokens than the first of a word was never trained.
                sure &= seen.words
            gold = gold.where(gold != IGNORED, likely.where(sure, IGNORED))
        if seen.student.crf is not None:
            return _of_rows(seen.student.crf, seen, logits, gold)
        return losses.cross_entropy(logits, gold)


def _of_rows(crf: CRF, seen: Seen, logits: Tensor, gold: Tensor) -> Tensor:
    """Negative log-likelihood of whole rows of labels, mean over the words that have one.

    The first tokens of words take part; a word without a label may have any.
    """
    from kdpipe.activations import mask_of, pad
    from kdpipe.losses.labels import IGNORED

    there = gold != IGNORED
    if seen.words is not None:
        there |= seen.words
    mask = mask_of(replace(seen, words=there).words_of_rows())
    return -crf.log_likelihood(pad(logits[there], mask), pad(gold[there], mask), mask)
