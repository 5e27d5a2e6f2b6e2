"""Pairs of stretches of text: what is joined, and what comes from elsewhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kdpipe.errors import ArtifactError
from kdpipe.sources import Row, SentencePairs
from tests.pieces import make_corpus, new_project
from tests.tables import gzip_, write


def rows(root: Path, *files: str, **keys: Any) -> list[Row]:
    source = SentencePairs(kind="sentence_pairs", files=files or ("a.txt",), **keys)
    return [*source.rows(root)]


def documents(count: int, sentences: int = 9) -> list[list[str]]:
    """Sentences of three words that say where they stand."""
    return [[f"of d{d} s{s}" for s in range(sentences + d % 3)] for d in range(count)]


def text(pages: list[list[str]]) -> str:
    return "\n".join("".join(f"{sentence}\n" for sentence in page) for page in pages)


def places(stretch: str | None) -> tuple[str, list[int]]:
    """Which document a stretch is of, and which sentences of it."""
    assert stretch is not None
    words = stretch.split()
    (page,) = {*words[1::3]}
    return page, [int(word[1:]) for word in words[2::3]]


def test_pairs_are_stretches_of_neighbours_or_of_two_documents(tmp_path: Path) -> None:
    pages = documents(60)
    write(tmp_path / "a.txt", text(pages))
    found = rows(tmp_path, max_words=12)
    followed, elsewhere, ends = 0, 0, Counter[int]()
    seen = Counter[tuple[str, int]]()
    for row in found:
        (page, first), (other, second) = places(row.text), places(row.text_pair)
        for stretch in (first, second):
            assert stretch == [*range(stretch[0], stretch[0] + len(stretch))]
        ends[len(first)] += 1
        seen.update((page, number) for number in first)
        if page == other:
            followed += 1
            assert second[0] == first[-1] + 1
            assert len(first) + len(second) <= 4
            seen.update((page, number) for number in second)
        else:
            elsewhere += 1
            assert int(other[1:]) < int(page[1:])
            at_end = second[-1] == len(pages[int(other[1:])]) - 1
            assert len(first) + len(second) == 4 or at_end or len(first) == 4
    # Every sentence has its place once; stretches from elsewhere come on top of that.
    lost = {(f"d{d}", s) for d, page in enumerate(pages) for s in range(len(page))} - {*seen}
    assert {*seen.values()} == {1}
    assert {page for page, _ in lost} <= {"d0"}
    assert 0.4 < elsewhere / (followed + elsewhere) < 0.75
    assert {*ends} == {1, 2, 3}
    assert min(ends.values()) > 20


def test_the_same_again_and_other_pairs_from_another_seed(tmp_path: Path) -> None:
    pages = documents(30)
    write(tmp_path / "a.txt", text(pages))
    found = rows(tmp_path, max_words=12)
    assert rows(tmp_path, max_words=12) == found
    assert rows(tmp_path, max_words=12, seed=1) != found
    assert all(row.label is None for row in found)
    write(tmp_path / "b/0.txt", text(pages[:11]))
    write(tmp_path / "b/1.txt.gz", gzip_(text(pages[11:]).encode()))
    assert rows(tmp_path, "b", max_words=12) == found


def test_a_document_alone_is_followed_by_itself(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "One two.\n  Three four.  \r\nFive six.\nSeven.\n")
    found = rows(tmp_path, max_words=4)
    assert found == [Row("One two.", "Three four."), Row("Five six.", "Seven.")]
    whole = rows(tmp_path)
    assert len(whole) == 1
    assert f"{whole[0].text} {whole[0].text_pair}" == "One two. Three four. Five six. Seven."
    write(tmp_path / "a.txt", "Just this.\n")
    assert rows(tmp_path) == []
    write(tmp_path / "a.txt", "Just this.\n\nAnd that.\n")
    assert rows(tmp_path) == [Row("And that.", "Just this.")]


def test_a_file_without_text(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "\n \n")
    with pytest.raises(ArtifactError) as caught:
        rows(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/a.txt is empty: no row has text; mend it, or take it out of 'files'"
    )


def test_long_documents_count_as_several(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", text([[f"of d0 s{n}" for n in range(1500)]]))
    found = rows(tmp_path, max_words=30)
    far = [row for row in found if places(row.text)[1][-1] + 1 != places(row.text_pair)[1][0]]
    assert far
    assert all(places(row.text)[1][0] >= 1000 for row in far)


def test_a_corpus_of_pairs(project: Path) -> None:
    write(project / "a.txt", text(documents(20)))
    spec: dict[str, Any] = {
        "sources": [{"kind": "sentence_pairs", "files": ["a.txt"], "max_words": 12}],
        "tokenizer": "tiny",
        "max_seq_length": 16,
    }
    made = make_corpus(new_project(project, ["-"], corpora={"text": spec}))
    assert made.facts.longest == 16
    assert made.all_of(0).second_at is not None
