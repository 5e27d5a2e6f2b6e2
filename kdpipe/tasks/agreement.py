"""Task `agreement`: how often the student's head says what the teacher's says, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdpipe import metrics
from kdpipe.config import Frozen
from kdpipe.errors import ArtifactError
from kdpipe.parts import LOGITS, some
from kdpipe.tasks.subject import say

if TYPE_CHECKING:
    from kdpipe.tasks.subject import HeldOut, Subject


class Agreement(Frozen):
    """Compare with the teacher's most likely class on held-out rows."""

    kind: Literal["agreement"]

    @property
    def main(self) -> str:
        """The metric that stands for the task."""
        return "agreement"

    def files(self) -> list[str]:
        """None: the corpus and the cache have all that is needed."""
        return []

    def score(self, subject: Subject, held_out: HeldOut, root: Path) -> dict[str, float]:
        """`agreement`: share of held-out rows with the teacher's class, 1.0 for the teacher.

        Raises:
            ArtifactError: the cache has no logits of rows, or they are about other classes.
            NonFiniteError: the model gives NaN or Inf.
        """
        classes = subject.encoder.dims.classes
        if subject.encoder.dims.problem != "single_label_classification":
            return {}
        if held_out.logits is None:
            raise ArtifactError(
                "agreement needs the teacher's logits of rows in the first cache: add a target of"
                " kind: logits"
            )
        if {*classes} != {*held_out.classes}:
            raise ArtifactError(
                f"agreement is about the same classes, {subject.name} has {some(classes)} and the"
                f" teacher {some(held_out.classes)}: take the task out, or give the head these"
                " classes"
            )
        said = say(subject, held_out.read_by(subject), LOGITS)
        order = [held_out.classes.index(name) for name in classes]
        return {"agreement": metrics.agreement(said, held_out.logits[:, order])}
