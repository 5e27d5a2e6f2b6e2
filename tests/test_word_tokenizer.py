"""Corpora whose tokens are words: the vocabulary, what is read, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kdpipe.errors import ArtifactError, UsageError
from kdpipe.nets.features import character_array, shape_array
from kdpipe.pipeline import CorpusSpec
from kdpipe.project import open_project
from kdpipe.read_rows import as_words, read_rows
from kdpipe.sources.row import Row
from kdpipe.word_tokenizer import word_tokenizer
from tests.small import SPECIAL, TEXT, corpus_spec, made, reviews, run, tagged, words_of, write


def test_the_vocabulary_is_the_words_by_frequency(project):
    counted = ["the", ".", "cat", "dog", ",", "A", "The", "end", "sees"]
    assert words_of(made(TEXT)) == [*SPECIAL, *counted]
    assert words_of(made(TEXT, tokenizer={"min_frequency": 2})) == [*SPECIAL, *counted[:4]]
    lower = [*SPECIAL, "the", ".", "cat", "dog", ",", "a", "end", "sees"]
    assert words_of(made(TEXT, tokenizer={"lowercase": True})) == lower
    assert words_of(made([*TEXT, *TEXT[:1] * 9])) == [*SPECIAL, *counted]  # each text counts once
    often = words_of(made([*TEXT, *TEXT[:1] * 9], deduplicate=False))
    assert often == [*SPECIAL, "cat", "the", ".", "The", "sees", "dog", ",", "A", "end"]
    assert words_of(made(TEXT, max_rows=1)) == [*SPECIAL, "cat", ".", "The", "sees", "the"]


def test_words_of_a_source_stay_whole(project):
    found = made(["U.S.\tB", "cat.\tO", "", "cat.\tO", "[UNK]\tO"])
    assert words_of(found) == [*SPECIAL, "cat.", "U.S."]
    ids = found.encode_words([["cat.", "cat", "[UNK]", "U.S."]], 9).ids
    assert ids.tolist() == [3, 1, 1, 4]


def test_held_out_rows_give_no_words(project):
    lines = [f"word{number} text" for number in range(60)]
    spec = corpus_spec(lines, validation=0.3)
    assert not isinstance(spec.tokenizer, str)
    tokenizer = word_tokenizer(spec, spec.tokenizer, Path())
    run_corpus = {"c": spec.model_dump(mode="json")}
    Path("p.yaml").write_text(json.dumps({"corpora": run_corpus}))
    run("tokenize", "p.yaml")
    corpus = open_project(Path("p.yaml")).corpus("c")
    assert corpus.facts.tokenizer == tokenizer.fingerprint
    assert corpus.facts.by_words
    held, every = corpus.held_out, np.arange(corpus.facts.rows)
    assert 5 < held.sum() < 40
    trained = {word for row in corpus.words(every[~held]) for word in row}
    assert {*words_of(tokenizer)} == {*SPECIAL, *trained}
    # The words that only held-out rows have are unknown ones.
    for row in every:
        unknown = (corpus.gather(every[[row]]).ids == 1).sum()
        assert unknown == (1 if held[row] else 0)


def test_rows_of_other_sources_that_are_held_out_give_no_words(project):
    Path("dev.txt").write_text("the cow.\n")
    named = [{"kind": "files", "files": ["dev.txt"]}]
    spec = corpus_spec([*TEXT, "the cow."]).model_dump(mode="json", exclude={"validation"})
    asked = CorpusSpec.model_validate(spec | {"validation_sources": named})
    assert not isinstance(asked.tokenizer, str)
    assert words_of(word_tokenizer(asked, asked.tokenizer, Path())) == words_of(made(TEXT))


def test_a_vocabulary_without_words_is_refused(project):
    with pytest.raises(ArtifactError) as caught:
        made(["a b", "c d"], tokenizer={"min_frequency": 2})
    assert str(caught.value) == (
        "no word of the corpus comes 2 times: lower min_frequency, or add text"
    )


def test_words_and_plain_text_make_no_vocabulary_together(project):
    Path("a.conll").write_text("a\tO\n")
    Path("b.txt").write_text("plain text\n")
    sources = [{"kind": "conll", "files": ["a.conll"]}, {"kind": "files", "files": ["b.txt"]}]
    spec = CorpusSpec.model_validate({"sources": sources, "tokenizer": {"kind": "words"}})
    assert not isinstance(spec.tokenizer, str)
    with pytest.raises(ArtifactError) as caught:
        word_tokenizer(spec, spec.tokenizer, Path())
    assert str(caught.value) == (
        "some rows are words and some plain text: set split_words: true for the text, or make two"
        " corpora of them"
    )


def test_rows_as_words_and_how_they_are_written(project):
    tokenizer = made(TEXT)
    rows = [Row("The cat."), Row("A dog", text_pair="it's ÉCRU"), Row("x", words=("x", "iPod"))]
    assert [row.words for row in as_words(tokenizer, rows)] == [
        ("The", "cat", "."),
        ("A", "dog", "[SEP]", "it", "'", "s", "ÉCRU"),
        ("x", "iPod"),
    ]
    read = read_rows(tokenizer, rows, 6, "").encoded
    assert read.lengths.tolist() == [3, 6, 2]
    assert read.word_of.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 0, 1]
    written = ["The", "cat", ".", "A", "dog", "[SEP]", "it", "'", "s", "x", "iPod"]
    vocabulary = words_of(tokenizer)
    ids = [vocabulary.index(word) if word in vocabulary else 1 for word in written]
    assert read.ids.tolist() == ids
    assert read.spelling is not None
    np.testing.assert_array_equal(read.spelling[:, 0], shape_array(written))
    np.testing.assert_array_equal(read.spelling[:, 1:], character_array(written))
    with_prompt = read_rows(tokenizer, [Row("cat")], 9, "the dog ").encoded
    assert with_prompt.word_of.tolist() == [-1, -1, 0]
    assert with_prompt.spelling.any(1).tolist() == [False, False, True]


def test_questions_are_not_read_by_words(project):
    with pytest.raises(UsageError) as caught:
        read_rows(made(TEXT), [Row("Who?", text_pair="A cat.", doc_stride=3)], 32, "")
    assert str(caught.value) == (
        "questions are read in windows of a model's own tokens: use the teacher's tokenizer"
    )


def test_a_corpus_keeps_what_is_read(project):
    """Plain texts too: what is gathered from disk is what a reader makes of the text."""
    write(project, {})
    run("tokenize", "p.yaml", "reviews-by-words", "tags-by-words")
    place = open_project(Path("p.yaml"))
    rows = {"reviews-by-words": [Row(text) for text, _ in reviews()]}
    rows["tags-by-words"] = [Row(" ".join(words), words=tuple(words)) for words, _ in tagged()]
    for name, expected in rows.items():
        corpus, reading = place.corpus(name), place.reading(name)
        assert reading.max_seq_length == corpus.facts.max_seq_length == 128
        assert reading.prompt == ""
        order = np.random.default_rng(0).permutation(len(expected))
        found = corpus.gather(order)
        wanted = read_rows(reading.tokenizer, [expected[row] for row in order], 128, "").encoded
        for key in ("ids", "lengths", "word_of", "spelling"):
            np.testing.assert_array_equal(getattr(found, key), getattr(wanted, key))
        np.testing.assert_array_equal(
            corpus.all_of(0).spelling, corpus.gather(np.arange(len(expected))).spelling
        )
        assert [*corpus.words(np.arange(1))[0]] == list(
            as_words(reading.tokenizer, expected[:1])[0].words or ()
        )


def test_other_words_are_another_question_to_a_teacher(project):
    """Unknown words have one id; a model that reads characters tells them apart all the same."""
    digests = set()
    for number, unknown in enumerate(["zebra", "xylophone"]):
        lines = ["the cat", "the cat sees", f"the cat sees {unknown}"]
        spec = corpus_spec(lines, tokenizer={"min_frequency": 2}).model_dump(mode="json")
        Path("p.yaml").write_text(json.dumps({"corpora": {f"c{number}": spec}}))
        run("tokenize", "p.yaml")
        corpus = open_project(Path("p.yaml")).corpus(f"c{number}")
        assert corpus.gather(np.arange(3)).ids.tolist() == [4, 3, 4, 3, 5, 4, 3, 5, 1]
        digests.add(corpus.facts.blocks[0].tokens_digest)
    assert len(digests) == 2
