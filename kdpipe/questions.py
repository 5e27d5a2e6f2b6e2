"""What a teacher is asked about a corpus, and which answers are not in the store yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdpipe.cache import whole_question
from kdpipe.corpus import BlockFacts, Corpus
from kdpipe.parts import order
from kdpipe.pipeline import CacheSpec
from kdpipe.progress import say
from kdpipe.store import Store
from kdpipe.targets import Question
from kdpipe.tensor_files import header

if TYPE_CHECKING:
    from kdpipe.device import Dtype

_REMEDY = "run 'kdpipe cache-teacher' with --verify, which computes it again"


@dataclass(frozen=True)
class Asking:
    """Who is asked what about which corpus: all that the answers depend on."""

    corpus: Corpus
    teacher: str
    """Identity of the teacher."""
    spec: CacheSpec
    dtype: Dtype

    @property
    def questions(self) -> list[Question]:
        """All questions of all targets, each once."""
        kept = (*self.spec.targets, *self.spec.files)
        asked = [question for target in kept for question in target.questions()]
        return sorted(
            set(asked),
            key=lambda one: (*order(one.what), one.storage),
        )

    def widths(self, store: Store) -> dict[str, int]:
        """How many numbers a vector has, by the question's name, as the first block's answers say.

        Raises ArtifactError where one of them cannot be read.
        """
        first, widths = self.corpus.facts.blocks[0], dict[str, int]()
        for question in self.questions:
            path = store.path(store.key(self.full(first, question)))
            widths[question.name] = header(path, _REMEDY)["values"].shape[1]
        return widths

    def full(self, block: BlockFacts, question: Question) -> dict[str, Any]:
        """The whole question, the digest of which names the shard."""
        facts, tokens = self.corpus.facts, block.tokens_digest
        return whole_question(self.teacher, self.dtype, facts, tokens, question)


@dataclass(frozen=True, eq=False)
class Todo:
    """A block with the questions whose answers are missing."""

    index: int
    block: BlockFacts
    questions: list[Question]
    tokens: int
    """Of the rows that the teacher has to read."""
    known: npt.NDArray[np.int64] | None = None
    """[R]: for each row where its answers are known from, or -1; None: of no row are they."""

    @property
    def unread(self) -> npt.NDArray[np.int64]:
        """The rows of the block that the teacher has to read."""
        known = np.full(self.block.rows, -1) if self.known is None else self.known
        return np.flatnonzero(known < 0)


def missing(asking: Asking, store: Store, *, verify: bool = False) -> list[Todo]:
    """The blocks that the teacher has to read; `verify` also finds damaged shards."""
    found = []
    for index, block in enumerate(asking.corpus.facts.blocks):
        questions = []
        for question in asking.questions:
            key = store.key(asking.full(block, question))
            there = store.find(key) is not None
            damaged = store.is_damaged(key) or (verify and there and not store.intact(key))
            if damaged:
                say(f"{store.path(key)} or its receipt is damaged: it is computed again")
            if damaged and verify:
                store.drop(key)
            if damaged or not there:
                questions.append(question)
        if questions:
            found.append(Todo(index, block, questions, block.tokens))
    return found


def cache_identity(spec: CacheSpec) -> dict[str, Any]:
    """The part of a cache's section that decides what is in it."""
    unsaid = {"tokens_per_batch", "files"}
    if spec.files:
        unsaid = {"tokens_per_batch", "teacher", "targets", "dtype"}
    return {key: value for key, value in spec.identity().items() if key not in unsaid}
