"""The copies of one row: how many, of which side, and that they depend on nothing but the row."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from kdpipe.augment import AugmentationSpec
from kdpipe.augment.masked_lm import load_masked_model
from kdpipe.augment.rows import copies
from kdpipe.augment.tools import Tools
from kdpipe.errors import UsageError
from kdpipe.sources import Row
from tests.masked import masked_folder, write_vectors

SOURCES = [{"kind": "files", "files": ["text.txt"]}]
ROW = Row("The cat sleeps on the warm stove.", None, 1)
PAIR = Row("The cat sleeps on the warm stove.", "A wide river runs past the mill.", 0.5)
MOVING = ("deleting", "n_gram_sampling", "short_disorder", "long_disorder")


def spec(*methods: dict, **keys: object) -> AugmentationSpec:
    return AugmentationSpec.model_validate({"sources": SOURCES, "methods": methods, **keys})


def perturb(*kinds: str, **keys: object) -> dict:
    return {"kind": "perturb", "steps": [{"kind": kind, **keys} for kind in kinds]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    write_vectors(folder / "glove.txt")
    return masked_folder(folder / "bert").parent


@pytest.fixture(scope="module")
def tools(files):
    import torch

    return Tools(files, torch.device("cpu"))


@pytest.fixture(scope="module")
def masked(files):
    return {"kind": "masked_lm", "model": str(files / "bert")}


def test_copies_are_other_texts_with_the_same_label(tools, masked):
    made = copies(ROW, spec(masked, copies=20), tools)
    assert 15 < len(made) <= 20
    texts = [row.text for row in made]
    assert len({*texts, ROW.text}) == len(made) + 1
    assert {row._replace(text="") for row in made} == {ROW._replace(text="")}
    proposed = tools.masked_model(masked["model"], None).candidates(ROW.text, [(4, 7)], 15)[4, 7]
    assert {text.split()[1] for text in texts} <= {"cat", *proposed}
    assert all(text.split()[0] == "The" and text.split()[3:5] == ["on", "the"] for text in texts)


def test_words_are_replaced_as_often_as_the_probability_says(tools, masked):
    model = tools.masked_model(masked["model"], None)
    spans = [(4, 7), (8, 14), (22, 26), (27, 32)]
    own = [ROW.text[slice(*span)] for span in spans]
    assert own == ["cat", "sleeps", "warm", "stove"]
    proposed, places = model.candidates(ROW.text, spans, 15), (1, 2, 5, 6)
    changed, draws = Counter(), 400
    for seed in range(draws):
        for row in copies(ROW, spec(masked, seed=seed), tools):
            words = row.text.rstrip(".").split()
            changed.update(
                word for word, place in zip(own, places, strict=True) if words[place] != word
            )
            changed["any"] += 1
    chances = {
        word: 0.4 * sum(other != word for other in proposed[span]) / len(proposed[span])
        for word, span in zip(own, spans, strict=True)
    }
    chances["any"] = 1 - math.prod(1 - chance for chance in chances.values())
    for what, chance in chances.items():
        mean = draws * chance
        assert abs(changed[what] - mean) < 5 * math.sqrt(mean * (1 - chance)), what


def test_tinybert_asks_the_model_for_words_of_one_piece_and_vectors_for_the_others(files, tools):
    row = Row("Berlin rain stops the train at Hail")
    method = {"kind": "tinybert", "model": str(files / "bert"), "vectors": "glove.txt"}
    made = copies(row, spec({**method, "probability": 1.0}, copies=200), tools)
    found = [{*words} for words in zip(*(row.text.split() for row in made), strict=True)]
    model = load_masked_model(files / "bert", tools.device)
    by_model = model.candidates(row.text, [(7, 11), (12, 17), (22, 27), (31, 35)], 15)
    assert [*by_model] == [(7, 11), (22, 27)]
    assert found[1] == {*by_model[7, 11]}
    assert found[4] == {*by_model[22, 27]}
    near = tools.neighbours("glove.txt", 100_000)
    # The only other vocabulary entry that is Berlin is its lower case, which is no other word.
    assert found[0] == {word[:1].upper() + word[1:] for word in near.nearest("Berlin", 15)}
    assert found[6] == {word[:1].upper() + word[1:] for word in near.nearest("hail", 15)}
    assert found[2] == {"stops"}
    assert found[3] == {"the"}


def test_word_vectors_alone(tools):
    method = {"kind": "word_vectors", "vectors": "glove.txt", "probability": 1.0, "candidates": 1}
    assert copies(Row("snow on a stove"), spec(method), tools) == [Row("sleet on a stove")]
    assert copies(Row("a stove"), spec(method, copies=5), tools) == []


def test_pairs_are_altered_one_side_at_a_time(tools, masked):
    made = copies(PAIR, spec(masked, perturb("masking"), copies=8), tools)
    first = [row for row in made if row.text != PAIR.text]
    second = [row for row in made if row.text_pair != PAIR.text_pair]
    assert [*first, *second] != made
    assert len(first) + len(second) == len(made)
    assert 16 < len(made) <= 32
    assert all(row.text_pair == PAIR.text_pair and row.label == 0.5 for row in first)
    assert all(row.text == PAIR.text and row.label == 0.5 for row in second)
    assert len({(row.text, row.text_pair) for row in made}) == len(made)


def test_copies_depend_on_seed_and_text_alone(files, tools, masked):
    asked = spec(masked, perturb("short_disorder"), copies=5, seed=3)
    before = copies(ROW, asked, tools)
    again = Tools(files, tools.device)
    copies(PAIR, asked, again)
    assert copies(ROW, asked, again) == before
    assert copies(ROW._replace(label=None), asked, tools) == [
        r._replace(label=None) for r in before
    ]
    assert copies(ROW, asked.model_copy(update={"seed": 4}), tools) != before
    other = ROW._replace(text=f"{ROW.text} Again.")
    assert {row.text for row in copies(other, asked, tools)}.isdisjoint(
        {f"{row.text} Again." for row in before}
    )


def test_more_copies_begin_with_the_fewer_ones(tools, masked):
    few, many = (copies(ROW, spec(masked, copies=count), tools) for count in (4, 12))
    assert many[: len(few)] == few
    assert len(many) > len(few)


def test_the_sides_of_a_pair_and_the_methods_draw_apart(tools):
    row = Row(*["rain snow hail fog " * 5] * 2)
    made = copies(row, spec(perturb("masking"), perturb("masking"), copies=1), tools)
    assert len({frozenset({r.text, r.text_pair} - {row.text}) for r in made}) == 4


def test_a_text_whose_words_stay_is_no_copy(tools):
    row = Row("two  blanks\tand more ")
    assert copies(row, spec(perturb("masking", probability=0.0), copies=9), tools) == []
    assert copies(row, spec(perturb("deleting", probability=1.0), copies=9), tools) == []
    masked = spec(perturb("masking", probability=1.0), copies=9)
    assert copies(row, masked, tools) == [Row("[MASK] [MASK] [MASK] [MASK]")]


def test_steps_follow_one_another(tools):
    row = Row(" ".join(str(number) for number in range(30)))
    steps = [
        {"kind": "n_gram_sampling", "lengths": [4], "probabilities": [1.0]},
        {"kind": "masking", "probability": 1.0, "mask": "<mask>"},
        {"kind": "deleting", "probability": 0.0},
        {"kind": "long_disorder", "length": 2},
        {"kind": "short_disorder"},
    ]
    made = copies(row, spec({"kind": "perturb", "steps": steps}), tools)
    assert made == [Row("<mask> <mask> <mask> <mask>")]


def test_words_with_tags_keep_their_places(tools, masked):
    words, tags = ("The cat", "sleeps", "warm-stove"), ("O", "B", "B")
    row = Row(" ".join(words), None, tags, words)
    made = copies(row, spec({**masked, "probability": 1.0}, perturb("masking"), copies=9), tools)
    assert len(made) > 9
    for copy in made:
        assert copy.label == tags
        assert copy.text == " ".join(copy.words)
        assert len(copy.words) == 3
    replaced = [copy.words or () for copy in made if "[MASK]" not in copy.text]
    assert all(first.startswith("The ") and "-" in last for first, _, last in replaced)


@pytest.mark.parametrize("kind", MOVING)
def test_words_with_tags_are_not_moved(tools, kind):
    words = ("a", "b")
    tagged = Row("a b", None, ("O", "B"), words)
    with pytest.raises(UsageError) as caught:
        copies(tagged, spec(perturb("masking"), perturb("masking", kind)), tools)
    assert str(caught.value) == (
        "words with a tag each can be masked or replaced, but not moved or left out: take the other"
        " steps out of method 'perturb'"
    )
    # A label of the whole text is none of its words.
    for copy in copies(tagged._replace(label="x"), spec(perturb(kind), copies=9), tools):
        assert copy.words == tuple(copy.text.split())
        assert {*copy.text.split()} <= {*words}


def test_tools_are_loaded_only_if_asked(tmp_path):
    nothing = Tools(tmp_path / "nowhere", None)
    assert copies(ROW, spec(perturb("masking", probability=1.0)), nothing)
