"""Objective `dropout_penalty`: the student says the same with dropout as without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdpipe.errors import UsageError
from kdpipe.objectives.base import Objective, Pairing, Seen, Unit
from kdpipe.objectives.logits import logits_part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.parts import Needs


class DropoutPenalty(Objective):
    """Half the squared distance of the logits with and without dropout (arXiv 1609.08017).

    The regulariser of ID-CNN taggers, and of no use to a model without dropout. It costs a second
    forward pass.
    """

    kind: Literal["dropout_penalty"]

    @property
    def from_teacher(self) -> bool:
        """Whether there has to be a cache to learn from."""
        return False

    def unit(self, pair: Pairing) -> Unit:
        """What the loss is a mean over."""
        units: dict[str | None, Unit] = {"mlm": "masked", "token": "words", "span": "tokens"}
        return units.get(pair.student.problem, "rows")

    def needs(self, pair: Pairing) -> tuple[Needs, Needs]:
        """Logits with and without dropout; raises UsageError for a student without a head."""
        if pair.student.problem is None:
            raise UsageError(
                "objective 'dropout_penalty': the student has no logits: give it a head"
            )
        part = logits_part(pair)
        return frozenset({part, part._replace(steady=True)}), frozenset()

    def compute(self, seen: Seen, pair: Pairing, learned: nn.ModuleDict) -> Tensor:
        """The loss, a scalar; of tokens the first ones of words count."""
        from kdpipe import losses

        part = logits_part(pair)
        said, steady = seen.student[part], seen.student[part._replace(steady=True)]
        if part.per_token and not part.only_masked and seen.words is not None:
            said, steady = said[seen.words], steady[seen.words]
        return losses.dropout_penalty(said, steady)
