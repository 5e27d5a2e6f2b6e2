"""Tags of words: a model's answers to each sentence alone, by the scores of seqeval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import seqeval.metrics
import torch
from transformers import AutoModelForTokenClassification

from kdpipe.sources.row import Row
from kdpipe.tasks.tagging import tags_of
from tests.labelled import (
    NOTHING,
    TAGS,
    refused,
    subject,
    task,
)
from tests.tiny import SENTENCES, tiny_headed_folder, tiny_tokenizer


def words_of(text: str) -> list[str]:
    """Some words have several tokens."""
    return text.replace("o", "oz").rstrip(".").split()


def tags_by_hand(folder: Path, words: list[str], limit: int) -> list[str]:
    """Tags of one sentence alone; O where the limit leaves nothing of a word."""
    model = AutoModelForTokenClassification.from_pretrained(folder, local_files_only=True).eval()
    pieces = [tiny_tokenizer().backend.encode(word).ids[1:-1] for word in words]
    ids = [2, *[piece for some in pieces for piece in some][: limit - 2], 3]
    with torch.inference_mode():
        likely = model(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
    firsts = np.cumsum([1, *map(len, pieces)])[:-1]
    return [TAGS[likely[place]] if place < limit - 1 else "O" for place in firsts]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_headed_folder(tmp_path_factory.mktemp("tagger"), "token", TAGS)


@pytest.fixture(scope="module")
def sentences() -> list[list[str]]:
    return [words_of(text) for text in SENTENCES[:16]]


def conll(path: Path, words: list[list[str]], tags: list[list[str]]) -> None:
    lines = [
        "".join(f"{word}\tx\t{tag}\n" for word, tag in zip(*both, strict=True))
        for both in zip(words, tags, strict=True)
    ]
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("limit", [64, 8])
def test_tagging(tagger, sentences, tmp_path: Path, limit: int) -> None:
    said = [tags_by_hand(tagger, words, limit) for words in sentences]
    gold = [[*tags] for tags in said]
    for tags in gold[::3]:
        tags[0], tags[-1] = "B-PLACE", "I-ANIMAL"
    conll(tmp_path / "data.conll", sentences, gold)
    who = subject(tagger, limit=limit)
    one = task(kind="tagging", file="data.conll", name="ner")
    found = one.score(who, NOTHING, tmp_path)
    right = [a == b for x, y in zip(said, gold, strict=True) for a, b in zip(x, y, strict=True)]
    assert found == pytest.approx(
        {
            "ner.accuracy": sum(right) / len(right),
            "ner.f1": seqeval.metrics.f1_score(gold, said),
            "ner.precision": seqeval.metrics.precision_score(gold, said),
            "ner.recall": seqeval.metrics.recall_score(gold, said),
        }
    )
    assert 0.0 < found["ner.f1"] < 1.0
    assert (one.main, one.files()) == ("ner.f1", ["data.conll"])
    assert tags_of(who, [Row(" ".join(w), words=tuple(w)) for w in sentences]) == said
    assert limit == 64 or any(tags[-1] == "O" for tags in said)


def test_words_without_a_token_are_outside(tagger) -> None:
    rows = [Row("", words=("", "\x07")), Row("cat", words=("", "cat", "")), Row("", words=())]
    first, second, third = tags_of(subject(tagger), rows)
    assert (first, third) == (["O", "O"], [])
    assert second == ["O", tags_by_hand(tagger, ["cat"], 64)[0], "O"]


def test_tags_that_mark_no_entities(tagger, tmp_path: Path) -> None:
    words = [["The", "cat", "sleeps"]]
    conll(tmp_path / "pos.conll", words, [["DET", "NOUN", "VERB"]])
    who = subject(tagger)
    assert refused(task(kind="tagging", file="pos.conll"), who, tmp_path) == (
        "pos.conll: its tags mark no entities: use metric: accuracy"
    )
    one = task(kind="tagging", file="pos.conll", metric="accuracy")
    assert one.main == "tagging.accuracy"
    assert one.score(who, NOTHING, tmp_path) == {"tagging.accuracy": 0.0}
    pos = subject(tiny_headed_folder(tmp_path / "pos", "token", ("DET", "NOUN", "VERB")))
    conll(tmp_path / "ner.conll", words, [["O", "B-ANIMAL", "O"]])
    assert refused(task(kind="tagging", file="ner.conll"), pos, tmp_path) == (
        "ner.conll: the tags of tiny (DET, NOUN, VERB) mark no entities: use metric: accuracy"
    )
    one = task(kind="tagging", file="ner.conll", metric="accuracy", label_column=1)
    assert one.score(pos, NOTHING, tmp_path) == {"tagging.accuracy": 0.0}
