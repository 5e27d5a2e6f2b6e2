"""What a teacher said about a row is kept when the row moves to another block of the corpus.

Legend: R rows, V vectors. Every shard says which rows it is about. When blocks of a corpus change,
the cache that was made before still has the shards of the blocks that are gone: most of their rows
stand in the new blocks, and what was said about them is copied, bit by bit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor

from kdpipe import artifact, cache, storage
from kdpipe.cache import TOLD, CacheFacts
from kdpipe.corpus import Corpus
from kdpipe.errors import ArtifactError
from kdpipe.gather import Shard, gather, spread
from kdpipe.mapped import Mapped
from kdpipe.parts import Part
from kdpipe.questions import Asking, Todo
from kdpipe.targets import Question
from kdpipe.tensor_files import header, shard_kinds

_REMEDY = "run the same command again, which does without it"
_BITS = 32
"""A place is the number of a block, and in so many lower bits that of a row in it."""


def about_rows(corpus: Corpus, index: int, part: Part) -> dict[str, Tensor]:
    """What a shard says of its rows: `rows [R, 16]`, their digests, and `counts [R]` of vectors."""
    digests = corpus.digests(index).view(np.uint8).reshape(-1, 16)
    said = {"rows": torch.from_numpy(digests)}
    if part.per_token:
        counts = np.diff(corpus.block(index).starts_of(part))
        said["counts"] = torch.from_numpy(counts.astype(np.int32))
    return said


@dataclass(frozen=True, eq=False)
class Known:
    """Shards of an earlier cache about blocks that are gone."""

    folder: Path
    facts: CacheFacts
    blocks: Sequence[Sequence[artifact.Part]]
    """The files about each, in the order of the questions."""
    digests: npt.NDArray[np.void]
    """[R]: of all rows of these blocks, sorted."""
    places: npt.NDArray[np.int64]
    """[R]: where each of them lies."""
    mapped: Mapped = field(repr=False)
    """All these files."""

    def told(self, asking: Asking) -> dict[str, Any] | None:
        """What it told of the teacher alone; None where less was asked of that."""
        if not {*asking.questions} <= {*self.facts.questions}:
            return None
        said = self.facts.identity()
        return {name: said[name] for name in TOLD}

    def find(self, digests: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
        """[R]: the place of each row, -1 where it is not known."""
        at = np.searchsorted(self.digests, digests).clip(max=len(self.digests) - 1)
        found: npt.NDArray[np.int64] = np.where(self.digests[at] == digests, self.places[at], -1)
        return found

    def complete(
        self, item: Todo, question: Question, read: dict[str, Tensor], corpus: Corpus
    ) -> dict[str, Tensor]:
        """The answer about a whole block, from `read`, that about its unread rows."""
        assert item.known is not None
        starts = corpus.block(item.index).starts_of(question.what)
        known, unread = np.flatnonzero(item.known >= 0), item.unread
        places = item.known[known]
        number = self.facts.questions.index(question)
        found = gather(
            places >> _BITS, places & ((1 << _BITS) - 1), lambda block: self._shard(block, number)
        )
        said, whole = storage.as_tensors(found, question.storage), {}
        for name, tensor in said.items():
            whole[name] = tensor.new_empty(int(starts[-1]), *tensor.shape[1:])
            for rows, values in ((known, tensor), (unread, read.get(name))):
                if values is not None:
                    first = starts[rows].astype(np.int64)
                    where = spread(first, starts[rows + 1] - first)
                    whole[name][torch.from_numpy(where)] = values
        read_from = np.unique(places >> _BITS).tolist()
        self.mapped.refuse_changed(*(self._path(block, number) for block in read_from))
        return whole

    def _path(self, block: int, number: int) -> Path:
        return self.folder / self.blocks[block][number].name

    @functools.cache  # noqa: B019 - it lives as long as the pass of a teacher
    def _shard(self, block: int, number: int) -> Shard:
        with safe_open(self._path(block, number), framework="pt") as shard:
            tensors = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
        del tensors["rows"]
        counts = tensors.pop("counts", None)
        kept = storage.as_arrays(tensors)
        if counts is None:
            return kept, None
        return kept, np.concatenate([[0], np.cumsum(counts.numpy(), dtype=np.int64)])


def _rows(
    folder: Path, files: Sequence[artifact.Part], facts: CacheFacts, mapped: Mapped
) -> npt.NDArray[np.void]:
    """[R]: digests of the rows that all these shards are about; raises ArtifactError."""
    paths = [folder / file.name for file in files]
    for path, file in zip(paths, files, strict=True):
        mapped.note(functools.partial(artifact.check, folder, file, _REMEDY), path)
    with safe_open(paths[0], framework="pt") as shard:
        rows: npt.NDArray[np.uint8] = shard.get_tensor("rows").numpy()
    for path, question in zip(paths, facts.questions, strict=True):
        kinds = header(path, "")
        vectors = kinds["values"].shape[0]
        if kinds != shard_kinds(question, len(rows), vectors, facts.widths[question.name]):
            raise ArtifactError(f"{path} is not about the rows of {paths[0]}")
        with safe_open(path, framework="pt") as shard:
            if "counts" in kinds and int(shard.get_tensor("counts").long().sum()) != vectors:
                raise ArtifactError(f"{path} has other counts than vectors")
    return rows.view("V16").ravel()


def spare(todo: list[Todo], asking: Asking, folder: Path) -> tuple[list[Todo], Known | None]:
    """The same blocks, of which known rows need not be read; and who knows them.

    `folder` is that of the cache, as it was made before.
    """
    earlier = _earlier(asking, folder) if todo else None
    if earlier is None:
        return todo, None
    return [_spared(item, asking.corpus, earlier) for item in todo], earlier


def _spared(item: Todo, corpus: Corpus, earlier: Known) -> Todo:
    if not {*item.questions} <= {*earlier.facts.questions}:
        return item
    known = earlier.find(corpus.digests(item.index))
    if (known < 0).all():
        return item
    lengths = np.diff(corpus.block(item.index).starts)
    return replace(item, known=known, tokens=int(lengths[known < 0].sum()))


def _earlier(asking: Asking, folder: Path) -> Known | None:
    """None where there is no cache, or one of another teacher, or it has no block that is gone."""
    if asking.spec.files:
        return None
    try:
        manifest, _ = artifact.open_finished(folder, cache.KIND, "")
        facts = CacheFacts.model_validate(manifest.facts)
    except (ArtifactError, ValueError):
        return None
    mine = (asking.teacher, asking.dtype, asking.corpus.facts.tokenizer)
    if (facts.teacher, facts.dtype, facts.tokenizer) != mine:
        return None
    if facts.prompt_tokens != asking.corpus.facts.prompt_tokens:
        return None
    used = {
        cache.name_of(asking.full(block, question), question)
        for block in asking.corpus.facts.blocks
        for question in asking.questions
    }
    each = len(facts.questions)
    listed = (manifest.files[at : at + each] for at in range(0, len(manifest.files), each))
    gone = {files[0].name: files for files in listed if not used & {file.name for file in files}}
    blocks, mapped = list[Sequence[artifact.Part]](), Mapped()
    digests, places = list[npt.NDArray[np.void]](), list[npt.NDArray[np.int64]]()
    for files in gone.values():
        try:
            rows = _rows(folder, files, facts, mapped)
        except (ArtifactError, FileNotFoundError):
            continue
        places.append((len(blocks) << _BITS) + np.arange(len(rows)))
        digests.append(rows)
        blocks.append(files)
    if not blocks:
        return None
    all_digests = np.concatenate(digests)
    order = np.argsort(all_digests, kind="stable")
    return Known(folder, facts, blocks, all_digests[order], np.concatenate(places)[order], mapped)
