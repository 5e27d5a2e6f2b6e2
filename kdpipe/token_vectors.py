"""Vectors of words or tokens in a user's file, and those that the rows of a corpus have.

Legend: R rows of the corpus, F rows of the file, N tokens of a block, V vectors, D numbers in each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import torch
from torch import Tensor

from kdpipe.corpus import Corpus
from kdpipe.errors import ArtifactError
from kdpipe.progress import counted
from kdpipe.tokenizer import Encoded, first_tokens

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]


def check_counts(path: Path, found: Integers, corpus: Corpus, about: str) -> None:
    """Refuse rows with another number of vectors than they have tokens, or words.

    A row that is cut off may have vectors for all its words, or for those that are left.

    Args:
        path: Where the vectors are.
        found: [R]: vectors of each row.
        corpus: The rows.
        about: `token` or `word`.

    Raises:
        ArtifactError: the first of these rows is named; or vectors of words, and rows are none.
    """
    least = most = corpus.lengths.astype(np.int64)
    if about == "word":
        least, most = _words(path, corpus)
    wrong = np.flatnonzero((found < least) | (found > most))
    if not len(wrong):
        return
    row = int(wrong[0])
    has = f"{counted(most[row], 'token')}, special ones included"
    remedy = "write one vector for each token that the corpus has"
    if about == "word":
        left = f" ({least[row]} of them before it is cut off)" if least[row] < most[row] else ""
        has, remedy = f"{counted(most[row], 'word')}{left}", "write one vector for each word"
    raise ArtifactError(
        f"{path} has {counted(found[row], 'vector')} for row {row} of {corpus.folder}, which has"
        f" {has}: {remedy} (wrong are {len(wrong):,} of {counted(len(found), 'row')})"
    )


def at_first_tokens(values: Tensor, counts: Integers, rows: Encoded) -> Tensor:
    """[N, D]: vectors of words `[V, D]`, at the first token of each word; 0 at other tokens.

    `counts` are the vectors of each row, those of words that were cut off among them.
    """
    assert rows.word_of is not None, "refused as the file was opened"
    places = np.flatnonzero(first_tokens(rows))
    begins = np.repeat(np.cumsum(counts) - counts, rows.lengths)
    laid = values.new_zeros(len(rows.ids), values.shape[1])
    laid[torch.from_numpy(places)] = values[torch.from_numpy((begins + rows.word_of)[places])]
    return laid


def starts_of(path: Path, lengths: Array, vectors: int) -> Integers:
    """[F + 1]: where each row of a file begins among its vectors `[V]`.

    Raises:
        ArtifactError: `lengths` are no numbers of vectors, or not all of them together.
    """
    if lengths.dtype.kind != "i" or lengths.ndim != 1 or (lengths < 0).any():
        raise ArtifactError(
            f"{path}: 'lengths' is {lengths.dtype} of the shape {[*lengths.shape]}: give the number"
            " of vectors of each row, as int64"
        )
    if lengths.sum() != vectors:
        raise ArtifactError(
            f"{path}: 'lengths' are {counted(lengths.sum(), 'vector')} in all, 'values' has"
            f" {vectors}: write the rows one after the other, without padding"
        )
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def flattened(column: pa.Array, what: str, rows: Integers) -> tuple[pa.Array, Integers]:
    """Lists of vectors as vectors `[V]`, and how many each has; `rows` are their numbers.

    Raises:
        ArtifactError: other things than lists of lists, or a null among them.
    """
    if not is_list(column.type) or pa.types.is_primitive(column.type.value_type):
        raise ArtifactError(
            f"{what} is {column.type}, not lists of vectors: write a list of lists of numbers for"
            " each row, or choose another value_column"
        )
    counts = pa.compute.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    vectors = column.flatten()
    if vectors.null_count:
        null = np.flatnonzero(vectors.is_null().to_numpy(zero_copy_only=False))[0]
        row = np.repeat(rows, counts)[null]
        raise ArtifactError(f"{what}: row {row} has null in place of a vector: mend the file")
    return vectors, counts


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists."""
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in checks)


def _words(path: Path, corpus: Corpus) -> tuple[Integers, Integers]:
    """[R]: words up to the last that has a token, and all words."""
    left, every = list[npt.NDArray[Any]](), list[npt.NDArray[Any]]()
    for index in range(len(corpus.facts.blocks)):
        block = corpus.block(index)
        if block.words is None or block.word_of is None:
            raise ArtifactError(
                f"{path} has vectors of words, the rows of {corpus.folder} are no lists of words:"
                " set split_words: true of its sources, or per: token of the file"
            )
        lengths = np.diff(block.starts)
        last = np.zeros(len(lengths), np.int64)
        np.maximum.at(last, np.repeat(np.arange(len(lengths)), lengths), block.word_of + 1)
        left.append(last)
        every.append(np.diff(block.words.offsets.to_numpy()))
    return np.concatenate(left), np.concatenate(every).astype(np.int64)
