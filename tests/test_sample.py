"""Rows that stand for a corpus: drawn by their text, and exactly that corpus where it is small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdpipe import sample as module
from kdpipe import write_corpus
from kdpipe.corpus_rows import Chosen, Distinct
from kdpipe.errors import ArtifactError
from kdpipe.sample import Sample, draw, sample
from tests.pieces import make_corpus, new_project, sentences, write_text


def read(root: Path, lines: list[str], seconds: float = 60.0, **keys: object) -> Sample:
    text = {"sources": [{"kind": "files", "files": ["text.txt"]}], "tokenizer": "tiny"}
    place = new_project(root, lines, corpora={"text": text | {"max_seq_length": 32} | keys})
    spec, folder = place.pipeline.corpora["text"], place.corpus_folder("text")
    return sample(spec, folder, place.reading("text"), place.root, seconds)


@pytest.mark.usefixtures("small_blocks")
def test_a_small_corpus_is_all_there(project: Path) -> None:
    found = read(project, sentences(60), mlm_probability=0.2)
    assert not (project / "artifacts").exists()
    place = new_project(
        project,
        sentences(60),
        corpora={"text": {**found.corpus.manifest.spec, "max_seq_length": 32}},
    )
    made = make_corpus(place)
    assert (found.times, found.exact) == (1.0, True)
    assert found.corpus.facts == made.facts
    assert len(made.facts.blocks) > 2
    assert found.bytes == sum(file.bytes for file in made.manifest.files)
    rows = np.array([0, 59, 17])
    mine, theirs = found.corpus.gather(rows), made.gather(rows)
    assert (mine.ids == theirs.ids).all()
    assert (found.corpus.held_out == made.held_out).all()
    assert (found.corpus.text_digests == made.text_digests).all()


def test_a_large_corpus_is_told_from_some_rows(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_corpus, "CHUNK", 64)
    monkeypatch.setattr(module, "MOST", 256)
    whole = make_corpus(new_project(project, sentences(1000))).facts
    found = read(project, sentences(1000), validation=0.1)
    facts = found.corpus.facts
    assert (facts.rows, found.times, found.exact) == (256, 1000 / 256, False)
    assert facts.tokens * found.times == pytest.approx(whole.tokens, rel=0.1)
    # Without time only one chunk is read.
    hasty = read(project, sentences(1000), seconds=0.0)
    assert (hasty.corpus.facts.rows, hasty.times) == (64, 1000 / 64)


def test_of_two_corpora_the_same_texts_are_drawn(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_corpus, "CHUNK", 16)
    monkeypatch.setattr(module, "MOST", 64)
    one = read(project, sentences(400))
    other = read(project, [*sentences(400)][::-1], max_seq_length=8)
    assert {*one.corpus.text_digests.tolist()} == {*other.corpus.text_digests.tolist()}
    assert len({*one.corpus.text_digests.tolist()}) == 64


def test_the_least_numbers_are_drawn_in_their_order() -> None:
    chosen = [
        Chosen(bytes(8) + number.to_bytes(8, "big"), None, held_out=False)
        for number in [*range(8999, 4499, -1), *range(4500)]
    ]
    kept, count = draw(chosen, 5000)
    assert count == 9000
    assert [int.from_bytes(row.digest[8:], "big") for row in kept] == [*range(5000)]
    kept, count = draw(chosen[:4096], 5000)
    assert (kept, count) == (chosen[:4096], 4096)
    assert draw([], 10) == ([], 0)


def test_duplicates_and_held_out_rows_are_as_in_the_corpus(project: Path) -> None:
    lines = [*sentences(40), *sentences(10)]
    found = read(project, lines, validation=0.3)
    write_text(project / "text.txt", lines)
    place = new_project(project, lines)
    rows = [*Distinct(place.pipeline.corpora["text"], place.root)]
    assert found.corpus.facts.rows == len(rows) == 40
    assert found.corpus.facts.duplicates == 10


def test_no_text_is_a_mistake(project: Path) -> None:
    with pytest.raises(ArtifactError, match="the sources have no text: check their files"):
        read(project, sentences(3), share=[0.0, 1e-9])
