"""Neighbouring stretches of text as pairs, half of them with a stretch from elsewhere (BERT's NSP).

A file has a sentence a line and a blank line between documents.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from kdpipe.sources.columns import text_of
from kdpipe.sources.formats import COMPRESSED, numbered
from kdpipe.sources.paths import NamedFiles
from kdpipe.sources.row import Row

Document = list[str]
"""Sentences in their order."""
_RECENT = 100
"""Documents that a stretch from elsewhere may come from: those before, so that memory is flat."""
_LONGEST = 1000
"""Sentences after which a document is cut in two."""


class SentencePairs(NamedFiles):
    """Pairs of stretches of sentences, as BERT is pretrained on them."""

    known = (".txt", *(f".txt{codec}" for codec in COMPRESSED))
    kind: Literal["sentence_pairs"]
    max_words: PositiveInt = 96
    """Sentences are joined until both stretches have so many words; 96 are about 128 tokens."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of where a stretch ends, and of what comes from elsewhere, together with the document."""

    def rows(self, root: Path) -> Iterator[Row]:
        """The pairs of all files, document by document; raises as other files do."""
        return self._pairs(self.read(root, _documents))

    def rows_of(self, path: Path) -> Iterator[Row]:
        """The pairs of one file."""
        return self._pairs(_documents(path))

    def _pairs(self, documents: Iterable[Document]) -> Iterator[Row]:
        before = deque[Document](maxlen=_RECENT)
        for document in documents:
            said = "\n".join([str(self.seed), *document]).encode()
            rng = random.Random(hashlib.blake2b(said, digest_size=8).digest())
            for first, second in self._stretches(document, before, rng):
                yield Row(" ".join(first), " ".join(second))
            before.append(document)

    def _stretches(
        self, document: Document, before: deque[Document], rng: random.Random
    ) -> Iterator[tuple[Document, Document]]:
        start = 0
        while start < len(document):
            chunk = _until(self.max_words, document[start:])
            start += len(chunk)
            end = 1 + _below(len(chunk) - 1, rng)
            first, second = chunk[:end], chunk[end:]
            if before and (not second or rng.random() < 0.5):
                start -= len(second)
                other = before[-1 - _below(len(before), rng)]
                left = self.max_words - _words(first)
                second = _until(left, other[_below(len(other), rng) :])
            if second:
                yield first, second


def _documents(path: Path) -> Iterator[Document]:
    document: Document = []
    for number, line in numbered(path):
        sentence = text_of(line.strip(), "text", f"{path}:{number}")
        if sentence is not None:
            document.append(sentence)
        if document and (sentence is None or len(document) == _LONGEST):
            yield document
            document = []
    if document:
        yield document


def _until(words: int, sentences: Document) -> Document:
    """The first sentences that have so many words together, at least one."""
    found: Document = []
    for sentence in sentences:
        found.append(sentence)
        if _words(found) >= words:
            break
    return found


def _words(sentences: Document) -> int:
    return sum(len(sentence.split()) for sentence in sentences)


def _below(end: int, rng: random.Random) -> int:
    """Any of 0, 1, ... below `end`; 0 for 0."""
    # From version to version Python keeps `random` as it is, but not `randrange`.
    return int(rng.random() * end)
