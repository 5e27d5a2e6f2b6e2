"""Objectives with a head: the same loss and gradients from a cache as from a live teacher."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from kdpipe import fill_blocks
from kdpipe.activations import Activations
from kdpipe.encoder import Encoder, observe
from kdpipe.gold import Gold
from kdpipe.join import Joined
from kdpipe.load import load_encoder
from kdpipe.loader import Batch, read_batch
from kdpipe.modules import HeadSpec
from kdpipe.parts import LOGITS, TOKEN_LOGITS
from tests.live import TOLERANCE, assert_same, learned, terms_of, with_teachers
from tests.pieces import make_cache, make_corpus, new_project, sentences
from tests.tiny import tiny_headed_folder

CLASSES = ("sun", "rain", "snow")
ROWS = 40


class Case(NamedTuple):
    """A kind of head, and what its corpus and its objectives are."""

    kind: str
    problem: str | None
    source: dict[str, Any]
    data: Any
    """Lines of JSON, or the text of a file."""
    losses: tuple[str, ...] = ("kl", "reverse_kl", "jensen_shannon", "ce", "mse")


def texts(label: Any) -> list[dict[str, Any]]:
    """Every fourth without a label."""
    return [
        {"text": text, "label": None if row % 4 == 1 else label(row)}
        for row, text in enumerate(sentences(ROWS))
    ]


def tagged() -> list[dict[str, Any]]:
    """Words with several tokens, and some beyond the limit of the corpus."""
    words = [text.replace("o", "oz").split() for text in sentences(ROWS)]
    return [
        {
            "text": row,
            "label": None if n % 4 == 1 else [CLASSES[(n + k) % 3] for k in range(len(row))],
        }
        for n, row in enumerate(words)
    ]


def asked() -> str:
    """Questions; every other answer is not in the first window of its context."""
    paragraphs = []
    for number, text in enumerate(sentences(ROWS // 2)):
        context = f"{text} {' '.join(sentences(3, number + 50))}"
        answer = context.split()[2 if number % 2 else -2]
        answers = [{"text": answer, "answer_start": context.rindex(f" {answer} ") + 1}]
        question = {"id": str(number), "question": f"What is {number}?", "answers": answers}
        paragraphs.append({"context": context, "qas": [question]})
    return json.dumps({"version": "1.1", "data": [{"title": "", "paragraphs": paragraphs}]})


LABELLED = {"kind": "files", "files": ["data.jsonl"], "label_column": "label"}
CASES = {
    "single": Case(
        "sequence", "single_label_classification", LABELLED, texts(lambda row: CLASSES[row % 3])
    ),
    "multi": Case(
        "sequence",
        "multi_label_classification",
        LABELLED,
        texts(lambda row: [CLASSES[row % 3], CLASSES[row % 2]][: row % 3]),
        ("kl", "ce", "mse"),
    ),
    "regression": Case("sequence", "regression", LABELLED, texts(lambda row: row / 7.0), ("mse",)),
    "token": Case("token", None, LABELLED, tagged()),
    "span": Case("span", None, {"kind": "squad", "files": ["data.json"], "doc_stride": 4}, asked()),
}


def objectives(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every form of the objectives about this head."""
    several = case.problem in {"multi_label_classification", "regression"}
    for loss in case.losses:
        yield loss, {"loss": loss}
        yield f"{loss} warm", {"loss": loss, "temperature": 3.0}
        if loss != "mse":
            for kind in ("flsw", "cwsm"):
                yield f"{loss} {kind}", {"loss": loss, "temperature": {"kind": kind}}
        if not several:
            yield f"{loss} shifted", {"loss": loss, "probability_shift": True}
        if case.kind == "token":
            yield f"{loss} sequence", {"loss": loss, "reduction": "sequence"}
    yield "labels", {"kind": "labels"}
    if case.kind != "span" and not several:
        yield "pseudo", {"kind": "labels", "pseudo_labels": True}
        yield "sure", {"kind": "labels", "pseudo_labels": True, "confidence": 0.6}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(fill_blocks, "SMALLEST", 20)
    monkeypatch.setattr(fill_blocks, "SPREAD", 100)


def headed(path: Path, case: Case, family: str, seed: int, **shape: int) -> Encoder:
    classes = ("score",) if case.problem == "regression" else CLASSES
    tiny_headed_folder(path, case.kind, classes, case.problem, family, seed=seed, **shape)
    return load_encoder(path, HeadSpec())


def batches(
    root: Path, case: Case, family: str, storage: str, teachers: tuple[str, ...] = ("one",)
) -> tuple[Batch, Batch, dict[str, Encoder]]:
    """Rows of several blocks in random order, with live and with cached answers."""
    part = LOGITS if case.kind == "sequence" else TOKEN_LOGITS
    who = {
        name: headed(root / name, case, family, seed, layers=2)
        for seed, name in enumerate(teachers, start=1)
    }
    target = {"kind": "logits", "per": "row" if part == LOGITS else "token", "storage": storage}
    corpus = {"sources": [case.source], "tokenizer": "one", "max_seq_length": 24, "prompt": ""}
    if isinstance(case.data, str):
        (root / "data.json").write_text(case.data)
    else:
        (root / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in case.data))
    place = new_project(
        root,
        ["not read"],
        corpora={"text": corpus},
        teachers={name: {"model": name} for name in teachers},
        caches={
            name: {"corpus": "text", "teacher": name, "dtype": "fp32", "targets": [target]}
            for name in teachers
        },
    )
    made = make_corpus(place)
    caches = {name: Joined(make_cache(place, made, name)[0], None, True) for name in teachers}
    assert len(made.facts.blocks) > 3
    rows = np.random.default_rng(1).permutation(made.facts.rows)[:23]
    needs = dict.fromkeys(teachers, frozenset({part}))
    dims = who["one"].dims
    assert dims.problem is not None
    cached = read_batch(made, caches, needs, rows, Gold(dims.problem, dims.classes))
    said = {name: observe(one, cached.tokens, needs[name], "fp32") for name, one in who.items()}
    return with_teachers(cached, said), cached, who


@pytest.mark.parametrize("storage", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_of_every_objective_with_a_head(project, name, storage):
    case = CASES[name]
    live, cached, who = batches(project, case, "bert", storage)
    student = headed(project / "student", case, "bert", 5, layers=1)
    for form, keys in objectives(case):
        terms = terms_of({"kind": "logits", **keys}, student.dims, {"one": who["one"].dims})
        assert_same(f"{name} {form}", student, terms, live, cached, storage)


@pytest.mark.parametrize("family", ["roberta", "distilbert", "electra", "mpnet", "modernbert"])
@pytest.mark.parametrize("name", ["single", "token", "span"])
def test_loss_and_gradients_of_every_family_with_a_head(project, name, family):
    case = CASES[name]
    live, cached, who = batches(project, case, family, "fp32")
    student = headed(project / "student", case, family, 5, layers=1)
    for keys in ({"kind": "logits", "temperature": 2.0}, {"kind": "labels"}):
        terms = terms_of(keys, student.dims, {"one": who["one"].dims})
        assert_same(f"{name} {keys}", student, terms, live, cached, "fp32")


@pytest.mark.parametrize("name", ["single", "multi", "regression", "token", "span"])
def test_the_average_of_two_caches_is_that_of_their_logits(project, name):
    case = CASES[name]
    live, cached, who = batches(project, case, "bert", "fp32", ("one", "two"))
    student = headed(project / "student", case, "bert", 5, layers=1)
    dims = {key: one.dims for key, one in who.items()}
    part = live.teachers["one"].values.keys()
    loss = case.losses[0]
    keys = {"kind": "logits", "loss": loss, "temperature": 2.0}
    average = terms_of({**keys, "average": {"one": 1.0, "two": 3.0}}, student.dims, dims)
    assert average.needs_of_teachers() == {"one": part, "two": part}
    assert_same(name, student, average, live, cached, "fp32")
    one, two = (live.teachers[key] for key in ("one", "two"))
    mean = Activations(one.lengths, {key: 0.25 * one[key] + 0.75 * two[key] for key in one.values})
    alone = terms_of(keys, student.dims, {"one": dims["one"]})
    wanted, slopes = learned(student, alone, with_teachers(live, {"one": mean}))
    found, others = learned(student, average, cached)
    assert found == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(others, slopes, rtol=1e-4, atol=1e-6)
    apart, _ = learned(student, alone, live)
    assert abs(apart - wanted) > 1e-4


def test_words_have_several_tokens_and_some_have_labels(project):
    live, _, _ = batches(project, CASES["token"], "bert", "fp32")
    assert live.gold is not None
    assert live.words is not None
    first, gold = live.words, live.gold
    assert (gold[~first] == -100).all()
    assert 0 < int((gold[first] >= 0).sum()) < int(first.sum())
    assert int(first.sum()) < len(first) - 2 * len(live.tokens)
    assert len(set(live.tokens.lengths.tolist())) > 3


def test_windows_are_with_and_without_their_answer(project):
    live, _, _ = batches(project, CASES["span"], "bert", "fp32")
    assert live.gold is not None
    assert bool((live.gold == 0).any())
    assert bool((live.gold > 0).any())
