"""What a teacher said about a corpus, read back as if the teacher were there.

Legend: R rows, N tokens, D width. `Cache.read(rows)` gives the same type as a live teacher does.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from safetensors import safe_open

from kdpipe import artifact
from kdpipe.config import Frozen
from kdpipe.corpus import Corpus, CorpusFacts, Count
from kdpipe.errors import ArtifactError
from kdpipe.gather import Arrays, Shard, gather
from kdpipe.mapped import Mapped
from kdpipe.parts import Needs, Part, Problem
from kdpipe.store import key_of
from kdpipe.targets import Question
from kdpipe.tensor_files import ABOUT_ROWS, header, listed, shard_kinds

if TYPE_CHECKING:
    from torch import Tensor

    from kdpipe.activations import Activations, Dims

KIND = "kdpipe.cache"
REMEDY = "run 'kdpipe cache-teacher'"


class Difference(Frozen):
    """How far the teacher in its compute dtype is from the same teacher in fp32, on a sample."""

    rows: Count
    min_cosine: float
    max_abs: float


class CacheFacts(Frozen):
    """What the manifest tells of a cache."""

    teacher: str
    """Identity of the teacher: weights, config and head."""
    tokenizer: str
    """Fingerprint of the tokenizer that teacher and corpus share."""
    dtype: str
    """Of the teacher's matrix products."""
    difference: Difference | None
    """None in fp32."""
    embedding_width: Count
    hidden_width: Count
    layers: Count
    """Layers of the teacher."""
    heads: Count
    """Attention heads of the teacher."""
    classes: tuple[str, ...]
    """What the teacher's logits are about, in their order; empty without logits."""
    problem: Problem | None
    """What the teacher's logits mean; null without logits."""
    relative: bool
    """Whether its attention also depends on positions that queries and keys do not show."""
    vocabulary: Count = 0
    """Logits of a token, where the teacher is a masked language model."""
    prompt_tokens: Count
    """At the head of every row."""
    rows: Count
    questions: tuple[Question, ...] = Field(min_length=1)
    """The files of the manifest are, block by block, the answers to these in their order."""
    widths: dict[str, Count]
    """By the name of a question, how many numbers a vector of its answers has."""

    @model_validator(mode="after")
    def _one_width_each(self) -> CacheFacts:
        if self.widths.keys() != {question.name for question in self.questions}:
            raise ValueError("widths of other questions than there are")
        return self


@dataclass(frozen=True, eq=False)
class Cache:
    """A finished cache, joined to the corpus that it was made for."""

    folder: Path
    manifest: artifact.Manifest
    digest: str
    facts: CacheFacts
    corpus: Corpus
    mapped: Mapped = field(init=False, repr=False, default_factory=Mapped)
    """Shards that were read."""

    @property
    def provides(self) -> Needs:
        """What can be read."""
        return frozenset(question.what for question in self.facts.questions)

    @property
    def dims(self) -> Dims:
        """Widths and depth of the teacher."""
        from kdpipe.activations import Dims

        facts = self.facts
        return Dims(
            embedding=facts.embedding_width,
            hidden=facts.hidden_width,
            layers=facts.layers,
            heads=facts.heads,
            classes=facts.classes,
            problem=facts.problem,
            relative=facts.relative,
            words=self._widths.get(Part("hidden", 0)),
            vocabulary=facts.vocabulary,
            masked=max(
                (part for part in self.provides if part.top_k is not None),
                key=lambda part: (part.only_masked, part.top_k),
                default=None,
            ),
            module_width=self._module_width,
        )

    def refuse_changed(self) -> None:
        """Raises ArtifactError where a file is not what it was when it was read."""
        self.mapped.refuse_changed()
        self.corpus.mapped.refuse_changed()

    def _module_width(self, name: str) -> int:
        part = Part("module", module=name)
        if part not in self._widths:
            raise ArtifactError(
                f"{self.folder} lacks module {name}: add it to a target of kind: modules and"
                f" {REMEDY}"
            )
        return self._widths[part]

    @functools.cached_property
    def _widths(self) -> dict[Part, int]:
        widths = self.facts.widths
        return {question.what: widths[question.name] for question in self.facts.questions}

    def read(self, rows: npt.NDArray[np.int64], needs: Needs) -> Activations:
        """What the teacher said about `rows`, in their order; values are fp32 on the CPU."""
        import torch

        from kdpipe.activations import Activations

        lengths = torch.from_numpy(self.corpus.lengths[rows].astype(np.int64))
        # Of one part in several storage types the last one is read.
        numbers = {question.what: number for number, question in enumerate(self.facts.questions)}
        values = {part: self._gather(rows, numbers[part], part) for part in needs}
        return Activations(lengths, values)

    def _gather(self, rows: npt.NDArray[np.int64], number: int, part: Part) -> Tensor:
        """[R, D] for a question about rows, [N, D] for one about tokens, or masked ones."""
        from kdpipe import storage

        def read(index: int) -> Shard:
            starts = self.corpus.block(index).starts_of(part) if part.per_token else None
            return self._shard(index, number), starts

        found = gather(*self.corpus.locate(rows), read)
        return storage.decode(storage.as_tensors(found, self.facts.questions[number].storage))

    @functools.cache  # noqa: B019 - a cache lives as long as its process
    def _shard(self, index: int, number: int) -> Arrays:
        """Views into one shard, whose digest is checked before its first use."""
        question = self.facts.questions[number]
        file = self.manifest.files[index * len(self.facts.questions) + number]
        path, remedy = self.folder / file.name, f"{REMEDY} with --verify, which computes it again"
        self.mapped.note(lambda: artifact.check(self.folder, file, remedy), path)
        told = self.corpus.facts.blocks[index]
        vectors = told.vectors(question.what)
        wanted = shard_kinds(question, told.rows, vectors, self.facts.widths[question.name])
        found = header(path, f"{REMEDY} with --verify")
        if found != wanted:
            raise ArtifactError(
                f"{path} has {listed(found)}, expected {listed(wanted)}: {REMEDY} with --verify"
            )
        from kdpipe import storage

        with safe_open(path, framework="pt") as shard:
            kept = {name: shard.get_tensor(name) for name in wanted.keys() - ABOUT_ROWS}
        return storage.as_arrays(kept)


TOLD = (
    *("embedding_width", "hidden_width", "layers", "heads", "classes", "problem", "relative"),
    *("vocabulary", "difference"),
)
"""The facts that are about the teacher alone."""


def told_of(dims: Dims) -> dict[str, Any]:
    """Those of the facts that are about the teacher alone."""
    return {
        "embedding_width": dims.embedding,
        "hidden_width": dims.hidden,
        "layers": dims.layers,
        "heads": dims.heads,
        "classes": list(dims.classes),
        "problem": dims.problem,
        "relative": dims.relative,
        "vocabulary": dims.vocabulary,
    }


def whole_question(
    teacher: str, dtype: str, corpus: CorpusFacts, tokens: str, ask: Question
) -> dict[str, Any]:
    """All that an answer depends on, whose digest names the shard; `tokens` says which rows."""
    return {
        "teacher": teacher,
        "tokenizer": corpus.tokenizer,
        "prompt_tokens": corpus.prompt_tokens,
        "tokens": tokens,
        "dtype": dtype,
        "ask": ask.identity(),
    }


def name_of(question: dict[str, Any], ask: Question) -> str:
    """What the shard is called in a cache."""
    return f"{ask.name}-{key_of(question)[:32]}.safetensors"


def open_cache(folder: Path, corpus: Corpus, remedy: str = REMEDY) -> Cache:
    """A finished cache of `corpus`.

    Raises:
        ArtifactError: not finished, or made for another corpus (the fields that differ are named).
    """
    manifest, digest = artifact.open_finished(folder, KIND, remedy)
    try:
        facts = CacheFacts.model_validate(manifest.facts)
    except ValueError as error:
        raise ArtifactError(f"{folder}: {str(error).splitlines()[0]}: {remedy}") from None
    made_for = {
        "corpus": (manifest.inputs.get("corpus"), corpus.digest),
        "tokenizer": (facts.tokenizer, corpus.facts.tokenizer),
        "rows": (facts.rows, corpus.facts.rows),
        "files": (len(manifest.files), len(corpus.facts.blocks) * len(facts.questions)),
    }
    other = [_pair(name, *values) for name, values in made_for.items() if values[0] != values[1]]
    if other:
        raise ArtifactError(
            f"{folder} was made for another corpus than {corpus.folder}"
            f" ({'; '.join(other)}): {remedy}"
        )
    _refuse_other_answers(folder, manifest, facts, corpus, remedy)
    return Cache(folder, manifest, digest, facts, corpus)


def _refuse_other_answers(
    folder: Path, manifest: artifact.Manifest, facts: CacheFacts, corpus: Corpus, remedy: str
) -> None:
    """Refuse a file that stands where the answer to another question, or block, is read."""
    files = iter(manifest.files)
    for block in corpus.facts.blocks:
        # What files say of rows is about all that is in a block, not about its tokens alone.
        tokens = block.name if "files" in manifest.spec else block.tokens_digest
        for ask in facts.questions:
            whole = whole_question(facts.teacher, facts.dtype, corpus.facts, tokens, ask)
            wanted, found = name_of(whole, ask), next(files).name
            if found != wanted:
                raise ArtifactError(
                    f"{folder} has {found} where {wanted} belongs, the answer about rows"
                    f" {block.first_row} to {block.first_row + block.rows - 1}: {remedy}"
                )


def _pair(name: str, cache: Any, corpus: Any) -> str:
    return f"{name}: {str(cache)[:12]} in the cache, {str(corpus)[:12]} in the corpus"
