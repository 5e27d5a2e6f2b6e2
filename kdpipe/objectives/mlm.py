"""Objective `mlm`: hidden tokens are guessed as the teacher guesses them (as in DistilBERT)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from kdpipe.errors import UsageError
from kdpipe.objectives.base import Objective, Pairing, Seen, Unit

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.parts import Needs, PartName


class MatchMasked(Objective):
    """Match the teacher's likeliest tokens, and the probability that it leaves to all others."""

    kind: Literal["mlm"]
    temperature: PositiveFloat = 1.0
    """Divides the logits of both; above or below 1 only the tokens that were kept count."""
    scale_by_temperature_squared: bool = True
    """Multiply by T^2, so that the gradient does not shrink with the temperature."""

    @property
    def learns_from(self) -> frozenset[PartName]:
        """What files must have for it."""
        return frozenset({"masked_logits"})

    def unit(self, pair: Pairing) -> Unit:
        """What the loss is a mean over: the tokens that the cache has an answer for."""
        kept = pair.teacher.masked
        return "masked" if kept is not None and kept.only_masked else "tokens"

    def needs(self, pair: Pairing) -> tuple[Needs, Needs]:
        """Logits of the student, the largest ones of the teacher.

        Raises:
            UsageError: a student without such a head, a cache without such a target, or a student
                with fewer tokens than the teacher.
        """
        mine, kept = pair.student, pair.teacher.masked
        if mine.problem != "mlm":
            raise UsageError(
                "objective 'mlm': the student guesses no tokens: give it head: {kind: mlm}"
            )
        if kept is None:
            raise UsageError(
                "objective 'mlm': its cache has no guesses of tokens: add a target of kind: mlm and"
                " run 'kdpipe cache-teacher'"
            )
        if mine.vocabulary < pair.teacher.vocabulary:
            raise UsageError(
                f"objective 'mlm': the student has {mine.vocabulary} tokens, the teacher"
                f" {pair.teacher.vocabulary}: give the student vocab_size:"
                f" {pair.teacher.vocabulary}"
            )
        return frozenset({kept._replace(top_k=None)}), frozenset({kept})

    def compute(self, seen: Seen, pair: Pairing, learned: nn.ModuleDict) -> Tensor:
        """The loss, a scalar; 0 where nothing is masked."""
        from kdpipe.losses import top_k_kl
        from kdpipe.masked_logits import unpacked

        kept = pair.teacher.masked
        assert kept is not None, "refused before the first step"
        log_p, indices, log_normalizer = unpacked(seen.teacher[kept])
        return top_k_kl(
            seen.student[kept._replace(top_k=None)],
            log_p + log_normalizer[:, None],
            indices,
            log_normalizer,
            temperature=self.temperature,
            scale_by_temperature_squared=self.scale_by_temperature_squared,
        )
