"""Which rows a corpus has, and which of them are held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdpipe.corpus import Corpus, text_digest
from kdpipe.errors import ArtifactError
from kdpipe.project import Project
from kdpipe.write_corpus import source_digests
from tests.pieces import make_corpus, new_project, sentences


def test_held_out_rows_are_a_matter_of_the_text_and_the_seed(project):
    lines = sentences(400)
    first = make_corpus(new_project(project, lines))
    chosen = {lines[row] for row in np.flatnonzero(first.held_out)}
    assert 20 <= len(chosen) <= 60
    turned = make_corpus(new_project(project, lines[::-1]))
    assert {lines[::-1][row] for row in np.flatnonzero(turned.held_out)} == chosen
    spec = {"sources": [{"kind": "files", "files": ["text.txt"]}], "tokenizer": "tiny"}
    other = {"text": {**spec, "max_seq_length": 32, "validation": 0.1, "seed": 1}}
    seeded = make_corpus(new_project(project, lines, corpora=other))
    assert {lines[row] for row in np.flatnonzero(seeded.held_out)} != chosen


def test_duplicates_and_row_limit(project):
    lines = sentences(30)
    made = make_corpus(new_project(project, lines + lines))
    assert (made.facts.rows, made.facts.duplicates) == (30, 30)
    spec = {"sources": [{"kind": "files", "files": ["text.txt"]}], "tokenizer": "tiny"}
    limited = {"text": {**spec, "max_seq_length": 32, "deduplicate": False, "max_rows": 40}}
    cut = make_corpus(new_project(project, lines + lines, corpora=limited))
    assert (cut.facts.rows, cut.facts.duplicates) == (40, 0)


def shared(project: Project, name: str) -> set[bytes]:
    made = make_corpus(project, name)
    return {bytes(digest) for digest in made.text_digests}


def corpora(**keys: dict[str, Any]) -> dict[str, Any]:
    """Corpora of one file, which differ in some keys."""
    spec = {"sources": [{"kind": "files", "files": ["text.txt"]}], "tokenizer": "tiny"}
    return {name: spec | own for name, own in keys.items()}


def test_shares_have_no_row_in_common_and_together_all(project):
    parts = {
        "all": {},
        "one": {"share": [0.0, 0.3]},
        "two": {"share": [0.3, 1.0]},
        "other": {"share": [0.0, 0.3], "seed": 7},
    }
    place = new_project(project, sentences(400), corpora=corpora(**parts))
    every, one, two, other = (shared(place, name) for name in parts)
    assert one | two == every
    assert not one & two
    assert 90 < len(one) < 150
    assert 10 < len(one & other) < 60
    # Rows that come or go change nothing for the others.
    place = new_project(project, sentences(500)[250:], corpora=corpora(**parts))
    later = shared(place, "one")
    assert later & every == one & shared(place, "all")
    assert later - every


def test_a_share_and_the_held_out_rows_are_drawn_by_themselves(project):
    parts = {"half": {"share": [0.0, 0.5], "validation": 0.5}}
    made = make_corpus(new_project(project, sentences(400), corpora=corpora(**parts)), "half")
    assert 160 < made.facts.rows < 240
    assert 0.4 < made.facts.held_out / made.facts.rows < 0.6


def test_a_share_without_rows(project):
    place = new_project(project, sentences(3), corpora=corpora(few={"share": [0.0, 1e-6]}))
    with pytest.raises(ArtifactError) as caught:
        make_corpus(place, "few")
    assert str(caught.value) == (
        "the sources have no text: check their files and columns, or widen 'share'"
    )


@pytest.mark.parametrize("share", [[0.5, 0.5], [0.6, 0.2], [0.0, 1.5], [0.1]])
def test_a_share_that_cannot_be(project, share):
    with pytest.raises(ValueError, match="share"):
        new_project(project, ["-"], corpora=corpora(text={"share": share}))


def sides(made: Corpus) -> list[bool]:
    return [bool(side) for side in made.held_out]


def test_rows_of_a_group_are_on_one_side(project):
    lines = sentences(300)
    rows = [{"text": line, "who": number % 30} for number, line in enumerate(lines)]
    rows[5]["who"] = None
    rows[6]["who"] = lines[7]
    rows[7]["who"] = None
    (project / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "files", "files": ["a.jsonl"], "group_column": "who"}
    grouped = {"sources": [source], "validation": 0.3}
    keys = corpora(by_text={"validation": 0.3}, grouped=grouped)
    place = new_project(project, lines, corpora=keys)
    own, found = sides(make_corpus(place, "by_text")), sides(make_corpus(place, "grouped"))
    of_group: dict[int, set[bool]] = {}
    for number in range(8, 300):
        of_group.setdefault(number % 30, set()).add(found[number])
    assert {len(one) for one in of_group.values()} == {1}
    assert {True, False} == {side for one in of_group.values() for side in one}
    assert found[5] == own[5]
    # A group that is the text of a row goes where that row goes.
    assert found[6] == found[7] == own[7]


def test_a_group_is_text_or_an_integer(project):
    (project / "a.jsonl").write_text('{"text": "a", "who": 0.5}\n')
    source = {"kind": "files", "files": ["a.jsonl"], "group_column": "who"}
    place = new_project(project, ["-"], corpora=corpora(text={"sources": [source]}))
    with pytest.raises(ArtifactError) as caught:
        make_corpus(place)
    assert str(caught.value) == (
        "a.jsonl:1: column 'who' is float, neither text nor an integer: choose another group_column"
    )


def held_out(root: Path, dev: list[str], lines: list[str], **keys: Any) -> Corpus:
    """A corpus of lines, all of another file held out."""
    (root / "dev.txt").write_text("".join(f"{line}\n" for line in dev))
    named = {"validation_sources": [{"kind": "files", "files": ["dev.txt"]}], **keys}
    return make_corpus(new_project(root, lines, corpora=corpora(text=named)))


def digests_of(lines: list[str]) -> list[bytes]:
    return [text_digest(line) for line in lines]


def test_rows_of_other_sources_are_held_out_and_no_others(project):
    lines = sentences(120)
    dev, both, own = lines[:20], lines[15:20], lines[20:]
    made = held_out(project, dev, [*own[:50], *both, *own[50:]])
    # A text that stands in both is held out, and never trained on.
    assert [bytes(digest) for digest in made.text_digests] == digests_of([*dev, *own])
    assert sides(made) == [True] * 20 + [False] * 100
    assert (made.facts.held_out, made.facts.duplicates) == (20, 5)


def test_what_is_held_out_is_not_trained_on_where_texts_may_come_twice(project):
    lines = sentences(30)
    dev, own = [*lines[:10], lines[0]], [*lines[5:], lines[29]]
    made = held_out(project, dev, own, deduplicate=False)
    wanted = digests_of([*dev, *lines[10:], lines[29]])
    assert [bytes(digest) for digest in made.text_digests] == wanted
    assert sides(made) == [True] * 11 + [False] * 21
    assert made.facts.duplicates == 5


def test_share_and_row_limit_are_about_what_is_trained_on(project):
    lines = sentences(300)
    half = held_out(project, lines[:50], lines[50:], share=[0.0, 0.5])
    assert half.facts.held_out == 50
    assert 100 < half.facts.rows - 50 < 150
    assert held_out(project, lines[:50], lines[50:], max_rows=7).facts.rows == 57


def test_other_rows_held_out_make_another_corpus(project):
    place = new_project(project, sentences(9), corpora=corpora(text={}))
    before = source_digests(place.pipeline.corpora["text"], place.root)
    assert [*before] == ["source.0"]
    found = []
    for line in ("one.", "two."):
        held_out(project, [line], sentences(9))
        named = {"validation_sources": [{"kind": "files", "files": ["dev.txt"]}]}
        place = new_project(project, sentences(9), corpora=corpora(text=named))
        found.append(source_digests(place.pipeline.corpora["text"], place.root))
    assert found[0]["source.0"] == found[1]["source.0"] == before["source.0"]
    assert found[0]["validation_source.0"] != found[1]["validation_source.0"]


def test_nothing_is_left_to_train_on(project):
    with pytest.raises(ArtifactError) as caught:
        held_out(project, sentences(5), sentences(5))
    assert str(caught.value) == (
        "all rows (5) are held out: give 'sources' text that 'validation_sources' have not"
    )


def test_rows_are_held_out_by_one_key(project):
    with pytest.raises(ValueError, match="'validation' and 'validation_sources' both say what is"):
        held_out(project, ["-"], ["-"], validation=0.0)
