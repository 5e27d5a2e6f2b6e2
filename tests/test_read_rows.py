"""Rows of every kind become the tokens that their tokenizer call gives, with their labels."""

from __future__ import annotations

import numpy as np

from kdpipe.read_rows import read_rows
from kdpipe.sources import Row, Span
from kdpipe.tokenizer import Encoded
from kdpipe.windows import read_windows
from tests.tiny import SENTENCES, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def same(found: Encoded, wanted: Encoded) -> bool:
    pairs = [(getattr(found, name), getattr(wanted, name)) for name in vars(wanted)]
    return all(np.array_equal(a, b) if b is not None else a is None for a, b in pairs)


def test_texts_and_pairs() -> None:
    texts = [Row(text, None, number) for number, text in enumerate(SENTENCES[:4])]
    read = read_rows(TOKENIZER, texts, 9, "wait: ")
    assert same(read.encoded, TOKENIZER.encode([f"wait: {text}" for text in SENTENCES[:4]], 9))
    assert ([*read.row_of], [*read.labels]) == ([0, 1, 2, 3], [0, 1, 2, 3])
    assert read.cut == int((read.encoded.lengths == 9).sum()) > 0
    pairs = [Row(a, b) for a, b in zip(SENTENCES[:4], SENTENCES[4:8], strict=True)]
    wanted = [(f"wait: {row.text}", row.text_pair) for row in pairs]
    read = read_rows(TOKENIZER, pairs, 99, "wait: ")
    assert same(read.encoded, TOKENIZER.encode(wanted, 99))
    assert ([*read.labels], read.cut) == ([None] * 4, 0)


def test_words() -> None:
    words = [tuple(text.split()) for text in SENTENCES[:4]]
    rows = [Row(" ".join(some), None, ("O",) * len(some), some) for some in words]
    read = read_rows(TOKENIZER, rows, 8, "wait: ")
    assert same(read.encoded, TOKENIZER.encode_words(words, 8, "wait: "))
    assert [*read.labels] == [row.label for row in rows]


def test_questions() -> None:
    context = " ".join(SENTENCES[:6])
    span = Span(context.index("dog"), context.index("dog") + 3)
    rows = [Row("The cat", context, span, None, 4), Row("Is it", SENTENCES[0], None, None, 4)]
    read = read_rows(TOKENIZER, rows, 32, "wait: ")
    made = read_windows(
        TOKENIZER, [("wait: The cat", context), ("wait: Is it", SENTENCES[0])], 32, 4
    )
    assert same(read.encoded, made.rows)
    assert [*read.row_of] == made.question_of.tolist() == [0] * (len(made.question_of) - 1) + [1]
    assert [*read.labels] == made.labels([span, None])
    assert read.cut == 0
    assert (read.encoded.lengths == 32).any()


def test_no_rows() -> None:
    read = read_rows(TOKENIZER, [], 8, "")
    assert (read.encoded.ids.shape, [*read.row_of], [*read.labels], read.cut) == ((0,), [], [], 0)
