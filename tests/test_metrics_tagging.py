"""Entities and their scores against seqeval, and tags that were never well-formed."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support
from seqeval.scheme import BILOU, IOB2, IOBES, Entities

from kdpipe import metrics

Tags = list[str]

LOOSE = st.one_of(
    st.just("O"),
    st.sampled_from("BIES"),
    st.builds("{}-{}".format, st.sampled_from("BIES"), st.sampled_from(["A", "B", "A-B", "O", ""])),
)
PAIRS = st.lists(st.lists(st.tuples(LOOSE, LOOSE), max_size=8), min_size=1, max_size=5)
SPANS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["A", "B"])), max_size=5
)
Gaps = list[tuple[int, int, str]]


def as_bilou(tags: Tags) -> Tags:
    return [{"E": "L", "S": "U"}.get(tag[0], tag[0]) + tag[1:] for tag in tags]


def spelled(spans: Gaps, style: Literal["BIO", "IOB1", "BIOES", "BILOU"]) -> tuple[Tags, list[Any]]:
    """Tags of entities given as (words before, words, type), and the entities."""
    tags: Tags = []
    found: list[Any] = []
    for gap, words, kind in spans:
        tags += ["O"] * gap
        follows = bool(found) and found[-1][0] == kind and found[-1][2] == len(tags) - 1
        letters = ["B", *"I" * (words - 1)]
        if style == "IOB1" and not follows:
            letters[0] = "I"
        if style in {"BIOES", "BILOU"}:
            end, alone = ("E", "S") if style == "BIOES" else ("L", "U")
            letters[-1] = end if words > 1 else alone
        found.append((kind, len(tags), len(tags) + words - 1))
        tags += [f"{letter}-{kind}" for letter in letters]
    return [*tags, "O"], found


@settings(deadline=None)
@given(st.lists(LOOSE, max_size=12))
def test_entities_are_those_of_seqeval(tags: Tags) -> None:
    assert metrics.entities(tags) == get_entities(tags)
    assert metrics.entities(as_bilou(tags)) == get_entities(tags)


@settings(deadline=None)
@given(SPANS, st.sampled_from(["BIO", "IOB1", "BIOES", "BILOU"]))
def test_entities_are_found_again_in_each_scheme(spans: Gaps, style: Any) -> None:
    tags, expected = spelled(spans, style)
    assert metrics.entities(tags) == expected
    if style != "IOB1":
        reference = {"BIO": IOB2, "BIOES": IOBES, "BILOU": BILOU}[style]
        strict = Entities([tags], reference).entities[0]
        assert metrics.entities(tags) == [(one.tag, one.start, one.end - 1) for one in strict]


@settings(deadline=None)
@given(PAIRS)
def test_scores_are_those_of_seqeval(sentences: list[list[tuple[str, str]]]) -> None:
    mine = [[pair[0] for pair in sentence] for sentence in sentences]
    gold = [[pair[1] for pair in sentence] for sentence in sentences]
    kinds = sorted({one[0] for tags in mine + gold for one in metrics.entities(tags)})
    assume(kinds)
    *micro, _ = precision_recall_fscore_support(gold, mine, average="micro", zero_division=0)
    found = metrics.entity_scores(mine, gold)
    assert found[:3] == pytest.approx(micro, abs=1e-12)
    assert found.support == sum(len(get_entities(tags)) for tags in gold)
    table = metrics.entity_table(mine, gold)
    assert list(table) == kinds
    each = precision_recall_fscore_support(gold, mine, average=None, zero_division=0)
    expected = np.array(each).T
    assert np.array([*table.values()]) == pytest.approx(expected, abs=1e-12)
    assert [one.support for one in table.values()] == expected[:, 3].tolist()


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", []),
        ("O O", []),
        ("O B-A I-A", [("A", 1, 2)]),  # up to the end of the sentence
        ("B-A", [("A", 0, 0)]),
        ("I-A I-A O", [("A", 0, 1)]),  # without a B-
        ("O I-A B-A", [("A", 1, 1), ("A", 2, 2)]),
        ("B-A I-B I-B", [("A", 0, 0), ("B", 1, 2)]),  # the type changes
        ("B-A I-B I-A", [("A", 0, 0), ("B", 1, 1), ("A", 2, 2)]),
        ("B-A B-A I-A", [("A", 0, 0), ("A", 1, 2)]),
        ("B-A O I-A", [("A", 0, 0), ("A", 2, 2)]),
        ("B-A I-A E-A I-A", [("A", 0, 2), ("A", 3, 3)]),
        ("S-A E-A", [("A", 0, 0), ("A", 1, 1)]),
        ("E-A E-A", [("A", 0, 0), ("A", 1, 1)]),
        ("I-A S-A I-A", [("A", 0, 0), ("A", 1, 1), ("A", 2, 2)]),
        ("B-A E-B", [("A", 0, 0), ("B", 1, 1)]),
        ("B-A I-A L-A U-A U-B", [("A", 0, 2), ("A", 3, 3), ("B", 4, 4)]),
        ("B-A L-A L-A", [("A", 0, 1), ("A", 2, 2)]),
        ("B I O I", [("_", 0, 1), ("_", 3, 3)]),  # no type
        ("B-x-y I-x-y I-x", [("x-y", 0, 1), ("x", 2, 2)]),
        ("B-O I-O", [("O", 0, 1)]),
        ("B-A I-a", [("A", 0, 0), ("a", 1, 1)]),
    ],
)
def test_entities_by_hand(tags: str, expected: list[Any]) -> None:
    assert metrics.entities(tags.split()) == expected


def test_no_entity_reaches_from_one_sentence_into_the_next() -> None:
    gold = [["O", "B-A"], ["I-A", "O"], []]
    apart = metrics.entity_scores([["O", "B-A"], ["O", "O"], []], gold)
    assert apart == metrics.Scores(1.0, 0.5, 2 / 3, 2)
    assert metrics.entity_scores(gold, gold) == (1.0, 1.0, 1.0, 2)
    joined = [[tag for tags in gold for tag in tags]]
    assert metrics.entity_scores(joined, joined).support == 1


def test_an_entity_is_right_only_as_a_whole() -> None:
    gold = [["B-A", "I-A", "O", "B-B"]]
    mine = [["B-A", "O", "O", "B-A"]]
    assert metrics.entity_scores(mine, gold) == (0.0, 0.0, 0.0, 2)
    # As many words as that are right one by one.
    assert metrics.token_accuracy(mine, gold) == 0.5


def test_the_same_place_in_another_sentence_is_another_entity() -> None:
    assert metrics.entity_scores([["B-A"], ["O"]], [["O"], ["B-A"]]) == (0.0, 0.0, 0.0, 1)


def test_a_table_by_hand() -> None:
    gold = [["B-A", "I-A", "B-A"], ["B-B"], ["O", "B-C"]]
    mine = [["B-A", "I-A", "I-A"], ["B-B"], ["B-D", "O"]]
    assert metrics.entity_table(mine, gold) == {
        "A": (0.0, 0.0, 0.0, 2),
        "B": (1.0, 1.0, 1.0, 1),
        "C": (0.0, 0.0, 0.0, 1),
        "D": (0.0, 0.0, 0.0, 0),
    }
    precision, recall, f1, support = metrics.entity_scores(mine, gold)
    assert (precision, recall, f1, support) == (1 / 3, 1 / 4, 2 / 7, 4)
    assert list(metrics.entity_table([["B-b", "B-a"]], [["B-c", "O"]])) == ["a", "b", "c"]


def test_predictions_in_another_scheme_count() -> None:
    gold = [["S-A", "B-B", "I-B", "E-B", "O"]]
    assert metrics.entity_scores([["B-A", "B-B", "I-B", "I-B", "O"]], gold).f1 == 1.0


@pytest.mark.parametrize("tags", [[], [[]], [["O", "O"], []]])
def test_nothing_to_find_scores_zero(tags: Any) -> None:
    assert metrics.entity_scores(tags, tags) == (0.0, 0.0, 0.0, 0)
    assert metrics.entity_table(tags, tags) == {}


def test_token_accuracy_counts_words_not_sentences() -> None:
    gold = [["DET", "NOUN", "VERB"], ["NOUN"], []]
    mine = [["DET", "NOUN", "NOUN"], ["VERB"], []]
    assert metrics.token_accuracy(mine, gold) == 2 / 4
    assert metrics.token_accuracy(gold, gold) == 1.0
    assert metrics.token_accuracy([], []) == metrics.token_accuracy([[]], [[]]) == 0.0


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-A I-A", "BIO"),
        ("O I-A", "BIO"),
        ("O B I", "BIO"),
        ("O", "BIO"),
        ("B-A E-A", "BIOES"),
        ("S-A O", "BIOES"),
        ("O B-A I-A E-A S-B", "BIOES"),
        ("B-A L-A", "BILOU"),
        ("U-A", "BILOU"),
        ("O B-A I-A L-A U-B", "BILOU"),
        ("O B-A S-A L-A", None),  # of two schemes
        ("E-A U-A", None),
        ("NOUN VERB", None),
        ("B-A NOUN", None),
        ("O-A", None),
        ("OTHER", None),
        ("b-A", None),
        ("-LRB-", None),
        ("BA", None),
    ],
)
def test_scheme_of_tags(tags: str, expected: str | None) -> None:
    assert metrics.tag_scheme(tags.split()) == expected
    assert metrics.tag_scheme(iter(tags.split())) == expected


def test_no_tag_at_all_is_no_entity_tag() -> None:
    assert metrics.tag_scheme([""]) is None


@pytest.mark.parametrize("tag", ["NOUN", "", "O-A", "-A", "BI-A", "b-A"])
def test_a_tag_that_marks_no_entity_is_refused(tag: str) -> None:
    with pytest.raises(AssertionError, match=f"^{tag!r} marks no entity: see tag_scheme$"):
        metrics.entities(["O", tag])


@pytest.mark.parametrize("function", [metrics.entity_scores, metrics.token_accuracy])
def test_wrong_shapes_are_refused(function: Any) -> None:
    for mine, gold in (
        ([["O"]], [["O"], ["O"]]),
        ([["O"]], [["O", "O"]]),
        (["O", "B"], ["O", "B"]),  # one sentence is not a list of sentences
    ):
        with pytest.raises(AssertionError):
            function(mine, gold)
