"""A tokenizer whose tokens are the words of a corpus itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from kdpipe.corpus_rows import Distinct
from kdpipe.errors import ArtifactError
from kdpipe.known_tokenizers import KnownTokenizer
from kdpipe.pipeline import CorpusSpec, WordTokenizer
from kdpipe.progress import counted
from kdpipe.sources import HubDataset
from kdpipe.tokenizer import WORD_LEVEL, Tokenizer

MOST_WORDS = 128
"""Of a row, where the corpus does not say."""


def known_words(spec: CorpusSpec, asked: WordTokenizer, root: Path) -> KnownTokenizer:
    """The tokenizer of a corpus' words, whose text is read again only once it is used."""

    def text() -> list[Any]:
        return [spec.identity(), [source.state(root) for source in spec.every_source]]

    # Nobody but the hub knows whether its text is the same again.
    on_disk = not any(isinstance(source, HubDataset) for source in spec.every_source)
    return KnownTokenizer(
        lambda: word_tokenizer(spec, asked, root), text if on_disk else None, root
    )


def word_tokenizer(spec: CorpusSpec, asked: WordTokenizer, root: Path) -> Tokenizer:
    """The words of all rows that are not held out, the most frequent first.

    Texts that are no lists of words are cut at blanks, and punctuation is a word of its own, as in
    BERT's tokenizer. A word that comes less often than `min_frequency` is unknown from the start,
    so that training has unknown words.

    Raises:
        ArtifactError: no word comes often enough, or some rows are words and some are not.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import BertPreTokenizer, WhitespaceSplit
    from tokenizers.processors import TemplateProcessing

    splits, lower = {True: WhitespaceSplit(), False: BertPreTokenizer()}, Lowercase()
    counts, kinds = Counter[str](), set[bool]()
    for _, row, held_out in Distinct(spec, root):
        kinds.add(row.words is not None)
        if held_out:
            continue
        split = splits[row.words is not None]
        for text in (row.text, row.text_pair or ""):
            given = lower.normalize_str(text) if asked.lowercase else text
            counts.update(word for word, _ in split.pre_tokenize_str(given))
    if len(kinds) > 1:
        raise ArtifactError(
            "some rows are words and some plain text: set split_words: true for the text, or make"
            " two corpora of them"
        )
    special = [*WORD_LEVEL.values()]
    kept = [word for word, count in counts.items() if count >= asked.min_frequency]
    words = sorted({*kept} - {*special}, key=lambda word: (-counts[word], word))
    if not words:
        raise ArtifactError(
            f"no word of the corpus comes {counted(asked.min_frequency, 'time')}: lower"
            " min_frequency, or add text"
        )
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    backend = Backend(WordLevel(vocabulary, unk_token=WORD_LEVEL["unk_token"]))
    if asked.lowercase:
        backend.normalizer = lower
    backend.pre_tokenizer = splits[kinds.pop()]
    # Puts nothing into a row; transformers would add the same when it reads the folder.
    backend.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
    backend.add_special_tokens(special)
    return Tokenizer(backend, dict(WORD_LEVEL), ("input_ids", "attention_mask"))
