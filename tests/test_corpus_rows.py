"""Which rows a corpus has, and which of them are held out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from kdpipe.corpus import Corpus
from kdpipe.errors import ArtifactError
from kdpipe.project import Project
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
