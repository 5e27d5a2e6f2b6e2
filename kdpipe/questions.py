"""What a teacher is asked about a corpus, and which answers are not in the store yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safetensors import safe_open

from kdpipe.cache import whole_question
from kdpipe.corpus import BlockFacts, Corpus
from kdpipe.device import Dtype
from kdpipe.parts import order
from kdpipe.pipeline import CacheSpec
from kdpipe.progress import say
from kdpipe.store import Store
from kdpipe.targets import Question


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

    def width(self, question: Question, store: Store) -> int:
        """How many numbers a vector has, told from the answer about the first block."""
        key = store.key(self.full(self.corpus.facts.blocks[0], question))
        with safe_open(store.path(key), framework="pt") as shard:
            return int(shard.get_slice("values").get_shape()[1])

    def full(self, block: BlockFacts, question: Question) -> dict[str, Any]:
        """The whole question, the digest of which names the shard."""
        facts, tokens = self.corpus.facts, block.tokens_digest
        return whole_question(self.teacher, self.dtype, facts, tokens, question)


@dataclass(frozen=True)
class Todo:
    """A block with the questions whose answers are missing."""

    index: int
    block: BlockFacts
    questions: list[Question]


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
            found.append(Todo(index, block, questions))
    return found


def cache_identity(spec: CacheSpec) -> dict[str, Any]:
    """The part of a cache's section that decides what is in it."""
    unsaid = {"tokens_per_batch", "files"}
    if spec.files:
        unsaid = {"tokens_per_batch", "teacher", "targets", "dtype"}
    return {key: value for key, value in spec.identity().items() if key not in unsaid}
