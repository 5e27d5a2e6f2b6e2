"""Objective `logits`: the student's head says what the teacher's head says (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from kdpipe.config import Frozen, Name
from kdpipe.errors import UsageError
from kdpipe.objectives.base import Objective, Pairing, Seen
from kdpipe.parts import LOGITS, MASKED_LOGITS, TOKEN_LOGITS, Part, some
from kdpipe.progress import counted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.activations import Dims
    from kdpipe.nets.crf import CRF
    from kdpipe.parts import Needs, PartName, Problem


class Flsw(Frozen):
    """A temperature for each row or token, lower where student and teacher disagree."""

    kind: Literal["flsw"]
    temperature: PositiveFloat = 4.0
    """In the middle."""
    beta: float = 1.0
    gamma: NonNegativeFloat = 2.0


class Cwsm(Frozen):
    """A temperature for each row or token, lower where the student is unsure."""

    kind: Literal["cwsm"]
    temperature: PositiveFloat = 4.0
    """In the middle."""
    beta: float = 1.0


Temperature = PositiveFloat | Annotated[Flsw | Cwsm, Field(discriminator="kind")]


class MatchLogits(Objective):
    """Match logits of rows, of the first tokens of words, or of the start and the end of a span.

    These two are distributions over all tokens of a window, those of the question and special ones
    included.
    """

    kind: Literal["logits"]
    loss: Literal["kl", "reverse_kl", "jensen_shannon", "ce", "mse"] = "kl"
    """`kl`: KL(teacher || student); `reverse_kl`: the other way; `jensen_shannon`: the mean of both
    against their mixture; `ce`: cross-entropy against the teacher's distribution; `mse`: squared
    error of the logits over the temperature. For several labels at a time `kl` and `ce` are the
    cross-entropy of each label's sigmoid; a regression takes `mse`."""
    temperature: Temperature = 1.0
    """Divides the logits of both: a number, or `{kind: flsw}` or `{kind: cwsm}`."""
    scale_by_temperature_squared: bool = True
    """Multiply by T^2, so that the gradient does not shrink with the temperature; never for `mse`
    and where the temperature is not a number."""
    probability_shift: bool = False
    """Exchange the teacher's largest logit with that of the gold label before anything else."""
    average: Annotated[dict[Name, PositiveFloat], Field(min_length=2)] | None = None
    """Several caches and their weights, in place of `cache`: learn from the weighted mean of their
    teachers' logits."""
    reduction: Literal["token", "sequence"] = "token"
    """Of tokens: `token`: every token counts the same; `sequence`: every row counts the same."""
    through_crf: bool = False
    """Of a student with a CRF: what each label of a word is worth over all sequences of labels of
    its row (log-marginals), in place of the logits of the word alone; so the CRF learns too."""

    @property
    def averaged(self) -> Mapping[str, float]:
        """Caches whose answers are averaged, with their weights."""
        return self.average or {}

    @model_validator(mode="after")
    def _one_cache_or_several(self) -> MatchLogits:
        if self.average is not None and self.cache is not None:
            raise ValueError("key 'average' names its caches: take out 'cache'")
        return self

    @model_validator(mode="after")
    def _scale_has_a_number(self) -> MatchLogits:
        if not isinstance(self.temperature, float) and self.loss == "mse":
            raise ValueError("loss 'mse' takes a number as temperature")
        return self

    @property
    def reads_labels(self) -> bool:
        """Whether it looks at the labels of the corpus."""
        return self.probability_shift

    @property
    def learns_from(self) -> frozenset[PartName]:
        """What files must have for it."""
        return frozenset({"logits", "token_logits"})

    def unit(self, pair: Pairing) -> Literal["rows", "words"]:
        """What the loss is a mean over."""
        by_word = pair.student.problem == "token" and self.reduction == "token"
        return "words" if by_word else "rows"

    def needs(self, pair: Pairing) -> tuple[Needs, Needs]:
        """Logits of both; raises UsageError where they are not about the same classes."""
        problem = same_head("logits", pair)
        if problem == "mlm":
            raise UsageError("objective 'logits': the student guesses tokens: use kind: mlm")
        several = problem == "multi_label_classification"
        if problem == "regression" and self.loss != "mse":
            raise UsageError("objective 'logits': a regression has no classes: use loss: mse")
        if several and self.loss not in {"kl", "ce", "mse"}:
            raise UsageError("objective 'logits': several labels at a time: use loss: kl or mse")
        if self.probability_shift and (several or problem == "regression"):
            raise UsageError(
                "objective 'logits': probability_shift is about the one right class of a row, the"
                f" student's head is {problem}: leave it out"
            )
        part = logits_part(pair)
        return frozenset({part}), frozenset({part})

    def compute(self, seen: Seen, pair: Pairing, learned: nn.ModuleDict) -> Tensor:
        """The loss, a scalar; of a span the sum of start and end."""
        part = logits_part(pair)
        if pair.student.problem == "span":
            return self._of_span(seen, part)
        student, teacher, gold = seen.student[part], seen.teacher[part], seen.gold
        several = pair.student.problem == "multi_label_classification"
        if not part.per_token:
            return self._compare(student, teacher, gold, several=several)
        counts = seen.student.lengths
        if seen.words is not None:
            student, teacher = student[seen.words], teacher[seen.words]
            gold = None if gold is None else gold[seen.words]
            counts = seen.words_of_rows()
        if self.through_crf:
            student = _over_rows(seen.student.crf, student, counts)
        return self._compare(student, teacher, gold, several=several, lengths=counts)

    def _of_span(self, seen: Seen, part: Part) -> Tensor:
        from kdpipe.losses import span_logits

        mask = seen.student.mask()
        mine, theirs = seen.student.padded(part), seen.teacher.padded(part)
        start, end = (
            self._compare(
                span_logits(mine[..., which], mask),
                span_logits(theirs[..., which], mask),
                None if seen.gold is None else seen.gold[:, which],
                several=False,
            )
            for which in (0, 1)
        )
        return start + end

    def _compare(
        self,
        student: Tensor,
        teacher: Tensor,
        gold: Tensor | None,
        *,
        several: bool,
        lengths: Tensor | None = None,
    ) -> Tensor:
        from kdpipe import losses

        if self.probability_shift and gold is not None:
            teacher = losses.probability_shift(teacher, gold)
        by = self.reduction if lengths is not None else "token"
        if self.loss == "mse":
            assert isinstance(self.temperature, float)
            return losses.logits_mse(
                student, teacher, temperature=self.temperature, lengths=lengths, reduction=by
            )
        temperature = self._temperature(student, teacher)
        scale = self.scale_by_temperature_squared and isinstance(temperature, float)
        if several or self.loss == "ce":
            cross = losses.binary_soft_cross_entropy if several else losses.soft_cross_entropy
            return cross(
                student,
                teacher,
                temperature=temperature,
                scale_by_temperature_squared=scale,
                lengths=lengths,
                reduction=by,
            )
        directions: dict[str, Literal["forward", "reverse", "jensen-shannon"]] = {
            "kl": "forward",
            "reverse_kl": "reverse",
            "jensen_shannon": "jensen-shannon",
        }
        return losses.kl_divergence(
            student,
            teacher,
            direction=directions[self.loss],
            temperature=temperature,
            scale_by_temperature_squared=scale,
            lengths=lengths,
            reduction=by,
        )

    def _temperature(self, student: Tensor, teacher: Tensor) -> float | Tensor:
        from kdpipe import losses

        asked = self.temperature
        if isinstance(asked, Flsw):
            return losses.temperature.flsw(
                student,
                teacher,
                temperature=asked.temperature,
                beta=asked.beta,
                gamma=asked.gamma,
            )
        if isinstance(asked, Cwsm):
            middle = asked.temperature
            return losses.temperature.cwsm(student, teacher, temperature=middle, beta=asked.beta)
        return asked


def _over_rows(crf: CRF | None, logits: Tensor, words: Tensor) -> Tensor:
    """[W, C]: log-marginals of the words of all rows; `words` [B] tells how many each has."""
    from kdpipe.activations import mask_of, pad

    assert crf is not None, "refused where the pipeline file is read"
    mask = mask_of(words)
    return crf.log_marginals(pad(logits, mask), mask)[mask]


def logits_part(pair: Pairing) -> Part:
    """Where the logits of the student are."""
    if pair.student.problem == "mlm":
        return MASKED_LOGITS
    return TOKEN_LOGITS if pair.student.problem in {"token", "span"} else LOGITS


def same_head(what: str, pair: Pairing) -> Problem:
    """What the logits of both mean; raises UsageError where it is not the same for both."""
    mine, theirs = pair.student, pair.teacher
    if mine.problem is None:
        raise UsageError(f"objective {what!r}: the student has no logits: give the student a head")
    if theirs.problem is None:
        raise UsageError(
            f"objective {what!r}: the teacher has no logits: use a teacher that was trained for the"
            " task"
        )
    if (mine.problem, mine.classes) != (theirs.problem, theirs.classes):
        raise UsageError(
            f"objective {what!r}: the student's head ({_head(mine)}) is not the teacher's"
            f" ({_head(theirs)}): use the same head and classes"
        )
    return mine.problem


def _head(dims: Dims) -> str:
    classes = counted(len(dims.classes), "class", "classes")
    return f"{dims.problem}, {classes}: {some(dims.classes)}"
