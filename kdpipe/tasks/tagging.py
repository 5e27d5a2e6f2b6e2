"""Task `tagging`: a tag for each word, as people gave them (CoNLL files)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from kdpipe import metrics
from kdpipe.config import Frozen, Name
from kdpipe.errors import ArtifactError
from kdpipe.parts import TOKEN_LOGITS, some
from kdpipe.sources.conll import Conll
from kdpipe.sources.row import Row
from kdpipe.tasks.subject import read, say

if TYPE_CHECKING:
    from kdpipe.encoder import Encoder
    from kdpipe.nets.crf import CRF
    from kdpipe.tasks.subject import HeldOut, Subject, Vectors
    from kdpipe.tokenizer import Encoded

_ROWS = 256
"""That are decoded at a time."""
OUTSIDE = "O"
"""What a word is tagged that the model did not get to see."""


class Tagging(Frozen):
    """Compare tags of words, or the entities that tags mark."""

    kind: Literal["tagging"]
    file: str
    """Columns with a word and its tag in each line, a blank line after each sentence."""
    word_column: int = 0
    """Which column has the word; -1 is the last one."""
    label_column: int = -1
    """Which column has the tag."""
    name: Name = "tagging"
    """What the metrics are called by, so that several files can be told apart."""
    metric: Literal["f1", "accuracy"] = "f1"
    """What stands for the task: `f1` of entities (BIO, BIOES), or the `accuracy` of tags (POS)."""

    @property
    def main(self) -> str:
        """The metric that stands for the task."""
        return f"{self.name}.{self.metric}"

    def files(self) -> list[str]:
        """The file with the tags."""
        return [self.file]

    def score(self, subject: Subject, held_out: HeldOut, root: Path) -> dict[str, float]:
        """`<name>.accuracy` of words, and of entities `.f1`, `.precision` and `.recall`.

        Entities are counted sentence by sentence. Nothing for a model without such a head.

        Raises:
            ArtifactError: the file or a column is missing, or f1 of tags that mark no entities.
            NonFiniteError: the model gives NaN or Inf.
        """
        if subject.encoder.dims.problem != "token":
            return {}
        source = Conll(
            kind="conll",
            files=(self.file,),
            word_column=self.word_column,
            label_column=self.label_column,
        )
        rows = list(source.rows(root))
        gold = [list(row.label) if isinstance(row.label, tuple) else [] for row in rows]
        if self.metric == "f1":
            self._refuse_unmarked(gold, subject)
        said = tags_of(subject, rows)
        scores = {f"{self.name}.accuracy": metrics.token_accuracy(said, gold)}
        if self.metric == "accuracy":
            return scores
        found = metrics.entity_scores(said, gold)
        return scores | {
            f"{self.name}.f1": found.f1,
            f"{self.name}.precision": found.precision,
            f"{self.name}.recall": found.recall,
        }

    def _refuse_unmarked(self, gold: list[list[str]], subject: Subject) -> None:
        if metrics.tag_scheme({tag for tags in gold for tag in tags}) is None:
            raise ArtifactError(f"{self.file}: its tags mark no entities: use metric: accuracy")
        classes = subject.encoder.dims.classes
        if metrics.tag_scheme(classes) is None:
            raise ArtifactError(
                f"{self.file}: the tags of {subject.name} ({some(classes)}) mark no entities: use"
                " metric: accuracy"
            )


def tags_of(subject: Subject, rows: Sequence[Row]) -> list[list[str]]:
    """A tag for each word of each row: what is said at its first token; O for words without one.

    Of a model with a CRF: the best sequence of tags over the whole row.
    """
    tokens, encoded = read(subject, rows)
    said = say(subject, tokens, TOKEN_LOGITS)
    return tags_by(subject.encoder, said, encoded, [len(row.words or ()) for row in rows])


def tags_by(
    encoder: Encoder, said: Vectors, rows: Encoded, words: Sequence[int]
) -> list[list[str]]:
    """As `tags_of`, where `said` [N, C] is known for all tokens of `rows`, of so many `words`."""
    from kdpipe.tokenizer import first_tokens

    assert rows.word_of is not None
    classes, begins = encoder.dims.classes, first_tokens(rows)
    row_of = np.repeat(np.arange(len(words)), rows.lengths)[begins]
    likely = _likely(encoder.crf, said[begins], np.bincount(row_of, minlength=len(words)))
    found = [[OUTSIDE] * count for count in words]
    places = zip(row_of.tolist(), rows.word_of[begins].tolist(), likely.tolist(), strict=True)
    for row, word, tag in places:
        found[row][word] = classes[tag]
    return found


def _likely(crf: CRF | None, said: Vectors, words: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[W]: the class of each word; `said` [W, C] of all rows together, `words` [B] in each."""
    import torch

    from kdpipe.activations import mask_of, pad

    if crf is None:
        best: npt.NDArray[np.int64] = said.argmax(1)
        return best
    found, first = [], 0
    for counts in torch.from_numpy(words).split(_ROWS):
        last = first + int(counts.sum())
        mask = mask_of(counts).to(crf.start.device)
        emissions = torch.from_numpy(said[first:last]).to(mask.device)
        found.append(crf.decode(pad(emissions, mask), mask)[mask].cpu().numpy())
        first = last
    return np.concatenate(found)
