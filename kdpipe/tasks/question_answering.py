"""Task `question_answering`: answers that stand in a text, against those of people (SQuAD v1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import NonNegativeInt, PositiveInt

from kdpipe import metrics
from kdpipe.config import Frozen, Name
from kdpipe.errors import ArtifactError
from kdpipe.parts import TOKEN_LOGITS
from kdpipe.sources.squad import Question, Squad
from kdpipe.tasks.subject import say

if TYPE_CHECKING:
    from kdpipe.tasks.subject import HeldOut, Subject


class Said(NamedTuple):
    """What a model answers."""

    text: str
    """A part of the context without blanks around it; empty where the model reads none of it."""
    probability: float
    """Of its start times that of its end, in the window where it was found."""


class QuestionAnswering(Frozen):
    """Compare answers with those that people gave."""

    kind: Literal["question_answering"]
    file: str
    """`.json` of SQuAD v1.1, `.jsonl`, `.parquet` or `.arrow`, as a source of kind `squad` reads
    them."""
    doc_stride: NonNegativeInt = 128
    """Tokens of a context that a window shares with the one before it."""
    n_best_size: PositiveInt = 20
    """Best starts, and best ends, of each window that are considered."""
    max_answer_length: PositiveInt = 30
    """Tokens of an answer, at most."""
    name: Name = "question_answering"
    """What the metrics are called by, so that several files can be told apart."""

    @property
    def main(self) -> str:
        """The metric that stands for the task."""
        return f"{self.name}.f1"

    def files(self) -> list[str]:
        """The file with the questions."""
        return [self.file]

    def score(self, subject: Subject, held_out: HeldOut, root: Path) -> dict[str, float]:
        """`<name>.f1` and `.exact_match`, by the rules of SQuAD; nothing without such a head.

        Raises:
            ArtifactError: the file is missing or wrong, or a question has no answers.
            UsageError: `doc_stride` leaves no room in a window.
            NonFiniteError: the model gives NaN or Inf.
        """
        if subject.encoder.dims.problem != "span":
            return {}
        source = Squad(kind="squad", files=(self.file,), doc_stride=self.doc_stride)
        questions = list(source.questions(root))
        for question in questions:
            if not question.answers:
                raise ArtifactError(
                    f"{self.file}: question {question.id!r} has no answers to measure by: take it"
                    " out"
                )
        said = answers_of(
            subject,
            questions,
            doc_stride=self.doc_stride,
            n_best_size=self.n_best_size,
            max_answer_length=self.max_answer_length,
        )
        texts = [answer.text for answer in said]
        gold = [[answer.text for answer in question.answers] for question in questions]
        return {
            f"{self.name}.f1": metrics.answer_f1(texts, gold),
            f"{self.name}.exact_match": metrics.exact_match(texts, gold),
        }


def answers_of(
    subject: Subject,
    questions: Sequence[Question],
    *,
    doc_stride: int = 128,
    n_best_size: int = 20,
    max_answer_length: int = 30,
) -> list[Said]:
    """An answer to each question: the best span of its context, as `best_spans` finds it.

    Raises:
        UsageError: `doc_stride` leaves no room in a window.
        NonFiniteError: the model gives NaN or Inf.
    """
    from kdpipe.activations import Tokens
    from kdpipe.spans import best_spans
    from kdpipe.windows import read_windows

    pairs = [(f"{subject.prompt}{one.question}", one.context) for one in questions]
    windows = read_windows(subject.tokenizer, pairs, subject.max_seq_length, doc_stride)
    tokens = Tokens.of(windows.rows, subject.tokenizer.count(subject.prompt))
    spans = best_spans(
        windows,
        say(subject, tokens, TOKEN_LOGITS),
        n_best_size=n_best_size,
        max_answer_length=max_answer_length,
    )
    return [
        Said(one.context[begin:end].strip(), probability)
        for one, (begin, end), probability in zip(
            questions, spans.characters.tolist(), spans.probabilities.tolist(), strict=True
        )
    ]
