"""The tokenised corpus: Arrow file blocks whose borders are chosen by the text itself.

Legend: R rows, N tokens. A row's digest decides whether a block may end after it, so inserting or
removing rows anywhere changes what the blocks around them hold, and no others.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from kdpipe import artifact
from kdpipe.blocks import Block, read_block
from kdpipe.config import Frozen
from kdpipe.errors import ArtifactError
from kdpipe.mapped import Mapped
from kdpipe.parts import MASKED_LOGITS, Part
from kdpipe.tokenizer import Encoded

KIND = "kdpipe.corpus"
REMEDY = "run 'kdpipe tokenize'"
_NOTHING = hashlib.blake2b(digest_size=16)
"""A copy of it takes half the time of a new one."""
_SUMS = ("rows", "tokens", "masked")
"""What is counted in a corpus and in each of its blocks."""


Count = Annotated[int, Field(ge=0, lt=2**48)]


class BlockFacts(Frozen):
    """What the manifest tells of a block."""

    name: str
    """File name, `block-<digest>.arrow`."""
    first_row: Count
    rows: Count
    tokens: Count
    masked: Count = 0
    """Tokens that are hidden from models."""
    tokens_digest: str
    """sha256 of the token ids and lengths: what a teacher's answer depends on."""

    def vectors(self, part: Part) -> int:
        """How many vectors of a part are about it."""
        return self.masked if part.only_masked else self.tokens if part.per_token else self.rows

    def check(self, rows: Block, *, by_words: bool) -> None:
        """Refuse other rows of the corpus than these should be; raises ValueError."""
        if by_words and rows.words is None:
            raise ValueError("no words, which its tokens should be")
        if (rows.numbers != np.arange(len(rows.numbers)) + self.first_row).any():
            raise ValueError(f"other row numbers than {self.first_row} and on")


class CorpusFacts(Frozen):
    """What the manifest tells of a corpus."""

    rows: Count
    held_out: Count
    """Rows that no student trains on."""
    tokens: Count
    masked: Count = 0
    """Tokens that are hidden from models."""
    longest: Count
    """Tokens of the longest row."""
    cut_rows: Count
    """Rows that were longer than `max_seq_length`, or just as long."""
    duplicates: Count
    """Rows left out because their text had come before, with whatever label."""
    tokenizer: str
    """Fingerprint of the effective tokenizer."""
    vocabulary: Count
    by_words: bool = False
    """Whether its tokens are whole words, so that models may read how these are written."""
    max_seq_length: Count
    prompt: str
    prompt_tokens: Count
    labels: tuple[str, ...] = ()
    """The different labels, those of all words and texts, in the order of numbers where all are
    integers, else of text; empty where labels are fractions or spans, or there are none."""
    blocks: tuple[BlockFacts, ...]


@dataclass(frozen=True, eq=False)
class Corpus:
    """A finished corpus, read block by block; every block is checked before its first use."""

    folder: Path
    manifest: artifact.Manifest
    digest: str
    facts: CorpusFacts
    mapped: Mapped = field(init=False, repr=False, default_factory=Mapped)
    """Blocks that were read."""

    @functools.cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """[R]: tokens of each row."""
        blocks = [np.diff(self.block(index).starts) for index in range(len(self.facts.blocks))]
        return np.concatenate(blocks).astype(np.int32)

    @functools.cached_property
    def masked(self) -> npt.NDArray[np.int64]:
        """[R]: masked tokens of each row."""
        blocks = [self.block(index) for index in range(len(self.facts.blocks))]
        return np.concatenate([np.diff(block.starts_of(MASKED_LOGITS)) for block in blocks])

    @functools.cached_property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """[R]: which rows no student trains on."""
        return np.concatenate(
            [self.block(index).held_out for index in range(len(self.facts.blocks))]
        )

    @functools.cached_property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """[R]: which rows have a label."""
        found = []
        for index in range(len(self.facts.blocks)):
            block = self.block(index)
            if block.labels is None:
                found.append(np.zeros(len(block.held_out), np.bool_))
            else:
                found.append(block.labels.is_valid().to_numpy(zero_copy_only=False))
        return np.concatenate(found)

    @functools.cached_property
    def text_digests(self) -> npt.NDArray[np.void]:
        """[R]: the digest of each row's text, as one value that sorts."""
        blocks = [self.block(index).text_digest for index in range(len(self.facts.blocks))]
        return np.ascontiguousarray(np.concatenate(blocks)).view("V16").ravel()

    @functools.cached_property
    def token_digests(self) -> npt.NDArray[np.void]:
        """[R]: those of all blocks."""
        return np.concatenate([self.digests(index) for index in range(len(self.facts.blocks))])

    def digests(self, index: int) -> npt.NDArray[np.void]:
        """[R]: a digest of what a model reads of each row and what is masked of it, for sorting."""
        return np.frombuffer(bytearray(b"".join(self._digests(index))), "V16")

    def _digests(self, index: int) -> Iterator[bytes]:
        rows, starts = self.all_of(index), self.block(index).starts
        seconds = rows.lengths if rows.second_at is None else rows.second_at
        for begin, end, second in zip(starts[:-1], starts[1:], seconds, strict=True):
            digest = hashlib.blake2b(rows.ids[begin:end].tobytes(), digest_size=16)
            digest.update(int(second).to_bytes(8, "little"))
            for more in (rows.original, rows.spelling):
                if more is not None:
                    digest.update(more[begin:end].tobytes())
            yield digest.digest()

    @functools.cached_property
    def first_rows(self) -> npt.NDArray[np.int64]:
        """First row of each block."""
        return np.array([block.first_row for block in self.facts.blocks])

    def locate(
        self, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """[R] blocks, and [R] rows within these."""
        blocks = np.searchsorted(self.first_rows, rows, side="right") - 1
        return blocks, rows - self.first_rows[blocks]

    @functools.cache  # noqa: B019 - a corpus lives as long as its process
    def block(self, index: int) -> Block:
        """One block; raises ArtifactError where its bytes are not what the manifest says."""
        path, file = self.path(index), self.manifest.files[index]
        self.mapped.note(lambda: artifact.check(self.folder, file, f"{REMEDY} again"), path)
        told = self.facts.blocks[index]
        try:
            found = read_block(path, self.facts.vocabulary)
            told.check(found, by_words=self.facts.by_words)
            _check(found, told, self.facts.longest)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise ArtifactError(
                f"{path} is not a corpus block ({reason}): {REMEDY} again"
            ) from None
        return found

    def path(self, index: int) -> Path:
        """The file of one block."""
        return self.folder / self.manifest.files[index].name

    def gather(self, rows: npt.NDArray[np.int64]) -> Encoded:
        """Rows in any order, copied together."""
        ids, words, original, spelling = (list[npt.NDArray[Any]]() for _ in range(4))
        lengths, second_at = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        pairs = False
        for index, (block, place) in enumerate(self._places(rows)):
            start, end = block.starts[place], block.starts[place + 1]
            ids.append(block.ids[start:end])
            if block.word_of is not None:
                words.append(block.word_of[start:end])
            if block.original is not None:
                original.append(block.original[start:end])
            if self.facts.by_words:
                spelling.append(block.spelling[start:end])
            lengths[index] = end - start
            pairs = pairs or block.second_at is not None
            second_at[index] = lengths[index] if block.second_at is None else block.second_at[place]
        return Encoded(
            _joined(ids),
            lengths,
            second_at if pairs else None,
            _joined(words) if words else None,
            _joined(original) if original else None,
            np.concatenate(spelling) if spelling else None,
        )

    def all_of(self, index: int) -> Encoded:
        """All rows of one block, in their order."""
        return self.block(index).encoded(by_words=self.facts.by_words)

    def labels(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        """The label of each row: None, int, float, str, or list of str.

        Of a question's window: first and last token of its answer, [0, 0] where that is not in it.
        """
        return [
            None if block.labels is None else block.labels[place].as_py()
            for block, place in self._places(rows)
        ]

    def words(self, rows: npt.NDArray[np.int64]) -> list[list[str]]:
        """The words of each row; raises ArtifactError where rows are not given as words."""
        found = []
        for block, place in self._places(rows):
            if block.words is None:
                raise ArtifactError(
                    f"{self.folder} has no words: read a source of kind conll, a column that holds"
                    " lists of words, or set split_words: true"
                )
            found.append(block.words[place].as_py())
        return found

    def _places(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[Block, int]]:
        blocks, places = self.locate(rows)
        for number, place in zip(blocks.tolist(), places.tolist(), strict=True):
            yield self.block(number), place


def open_corpus(folder: Path, remedy: str = REMEDY) -> Corpus:
    """A finished corpus; raises ArtifactError where there is none."""
    manifest, digest = artifact.open_finished(folder, KIND, remedy)
    try:
        facts = CorpusFacts.model_validate(manifest.facts)
    except ValueError as error:
        raise ArtifactError(f"{folder}: {str(error).splitlines()[0]}: {remedy}") from None
    if [file.name for file in manifest.files] != [block.name for block in facts.blocks]:
        raise ArtifactError(f"{folder}: files and blocks of the manifest differ: {remedy}")
    starts = np.cumsum([0, *(block.rows for block in facts.blocks)]).tolist()
    sums = {name: sum(getattr(block, name) for block in facts.blocks) for name in _SUMS}
    counted = [block.first_row for block in facts.blocks] == starts[:-1]
    if not facts.rows or not counted or sums != {name: getattr(facts, name) for name in _SUMS}:
        raise ArtifactError(f"{folder}: counts of the manifest contradict each other: {remedy}")
    return Corpus(folder, manifest, digest, facts)


def text_digest(whole: str) -> bytes:
    """blake2b-128 of a text, or of a pair as one: what tells rows apart, whatever reads them."""
    state = _NOTHING.copy()
    state.update(whole.encode("utf-8", "surrogatepass"))
    return state.digest()


def tokens_digest(
    ids: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    second_at: Any,
    original: Any,
    spelling: Any = None,
) -> str:
    """sha256 over what a model reads of a block and which of it is masked, as hex."""
    arrays = [ids, lengths] if second_at is None else [ids, lengths, second_at]
    if original is not None:
        arrays = [ids, lengths, [] if second_at is None else second_at, original]
    if spelling is not None:
        rest = ([] if array is None else array for array in (second_at, original))
        arrays = [ids, lengths, *rest, spelling.reshape(-1)]
    state = hashlib.sha256()
    for array in arrays:
        state.update(len(array).to_bytes(8, "little"))
        state.update(np.ascontiguousarray(array, "<i8").data)
    return state.hexdigest()


def _check(block: Block, told: BlockFacts, longest: int) -> None:
    """Refuse other counts than the manifest tells; raises ValueError."""
    found = {"rows": len(block.held_out), "tokens": len(block.ids)}
    found["masked"] = int(block.starts_of(MASKED_LOGITS)[-1])
    for name, count in found.items():
        if count != getattr(told, name):
            raise ValueError(f"{count} {name}, {getattr(told, name)} expected")
    if (most := int(np.diff(block.starts).max())) > longest:
        raise ValueError(f"a row of {most} tokens, the longest should have {longest}")


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    return np.concatenate(parts or [np.empty(0, np.int64)]).astype(np.int64)
