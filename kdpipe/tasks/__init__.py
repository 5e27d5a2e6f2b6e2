"""How a student is measured: the kinds of task."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdpipe.tasks.agreement import Agreement
from kdpipe.tasks.fidelity import Fidelity
from kdpipe.tasks.labelled import Classification, Labelled, MultiLabel, Regression
from kdpipe.tasks.masked_language import MaskedLanguage
from kdpipe.tasks.question_answering import QuestionAnswering
from kdpipe.tasks.similarity import Similarity
from kdpipe.tasks.tagging import Tagging

Task = Annotated[
    Fidelity
    | Similarity
    | Agreement
    | Classification
    | MultiLabel
    | Regression
    | Tagging
    | QuestionAnswering
    | MaskedLanguage,
    Field(discriminator="kind"),
]

__all__ = [
    "Agreement",
    "Classification",
    "Fidelity",
    "Labelled",
    "MaskedLanguage",
    "MultiLabel",
    "QuestionAnswering",
    "Regression",
    "Similarity",
    "Tagging",
    "Task",
]
