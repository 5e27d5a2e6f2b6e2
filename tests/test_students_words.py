"""Students that read whole words and how they are written, from a pipeline file to a folder."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from kdpipe import job
from kdpipe.activations import Tokens
from kdpipe.cli import main
from kdpipe.dvc import stages
from kdpipe.encoder import Encoder, ask, observe
from kdpipe.errors import UsageError
from kdpipe.modules import HeadSpec
from kdpipe.parts import EMBEDDING, LOGITS, TOKEN_LOGITS
from kdpipe.predict import open_subject
from kdpipe.project import open_project
from kdpipe.read_rows import read_rows
from kdpipe.sources.row import Row
from kdpipe.students import CNNLSTMStudent, IDCNNStudent, RecurrentStudent
from kdpipe.tasks import Classification, Tagging
from kdpipe.tasks.subject import HeldOut
from kdpipe.tokenizer import Tokenizer, load_tokenizer
from tests.small import TEXT, TRAIN, loaded, made, reviews, run, tagged, words_of, write
from tests.tiny import SENTENCES, tiny_tokenizer

KINDS: dict[str, dict[str, Any]] = {
    "cnn_lstm": {"word_width": 12, "character_filters": 8, "hidden_size": 10, "num_layers": 1}
    | {"dropout": 0.1},
    "id_cnn": {"word_width": 12, "filters": 16, "input_dropout": 0.1},
    "recurrent": {"word_width": 12, "hidden_size": 10},
}
NETS = {"cnn_lstm": CNNLSTMStudent, "id_cnn": IDCNNStudent, "recurrent": RecurrentStudent}


def net(kind: str, **keys: Any) -> Any:
    return NETS[kind](kind=kind, **{**KINDS[kind], **keys})


NOTHING = HeldOut(Tokens(torch.empty(0), torch.empty(0)), None)


def f1(folder: Path) -> float:
    """Of a tagger, on the sentences of `tagged`."""
    task = Tagging(kind="tagging", file="tags.conll")
    return task.score(open_subject(folder, "cpu"), NOTHING, Path())["tagging.f1"]


def batch(tokens: Tokens) -> dict[str, torch.Tensor]:
    """What a model of transformers is given."""
    mask = tokens.mask()
    spelling = torch.zeros(*mask.shape, 13, dtype=torch.long)
    spelling[mask] = tokens.spelling.long()
    inputs = {"input_ids": tokens.padded(0), "attention_mask": mask.long()}
    return inputs | {"shapes": spelling[..., 0], "characters": spelling[..., 1:]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crf", [False, True])
def test_a_tagger_learns_tags_and_comes_back(project, kind, crf):
    student = {
        "corpus": "tags-by-words",
        "model": {"kind": kind, **KINDS[kind]},
        "head": {"kind": "token", "crf": crf},
        "train": TRAIN | {"max_steps": 80},
    }
    write(project, {"s": student})
    run("tokenize", "p.yaml", "tags-by-words")
    run("train", "p.yaml")
    folder = project / "artifacts/students/s"
    assert f1(folder) > 0.95
    assert (folder / "crf.safetensors").is_file() == crf
    encoder, tokenizer = loaded(folder), load_tokenizer(folder)
    assert (
        tokenizer.fingerprint
        == open_project(Path("p.yaml")).reading("tags-by-words").tokenizer.fingerprint
    )
    rows = [words for words, _ in tagged()]
    tokens = Tokens.of(tokenizer.encode_words([*rows, ["Zoë's", "iPod"]], 32), 0)
    said = ask(encoder, tokens, TOKEN_LOGITS, "fp32")
    model = AutoModelForTokenClassification.from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        theirs = model(**batch(tokens)).logits[tokens.mask()]
    torch.testing.assert_close(theirs, said, rtol=0, atol=1e-5)

    (project / "new.txt").write_text("The ship is near a red bell .\n\nUnheard of\n")
    run("predict", str(folder), "new.txt", "tags.jsonl")
    lines = [json.loads(line) for line in (project / "tags.jsonl").read_text().splitlines()]
    assert lines[0]["tags"] == ["O", "B-THING", "O", "O", "O", "O", "B-THING", "O"]
    assert [line["words"] for line in lines[1:]] == [[], ["Unheard", "of"]]
    page = (folder / "README.md").read_text()
    assert ("kdpipe predict path/to/s my.txt labels.jsonl" in page) == (kind != "recurrent")


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_by_words_learns_labels_and_comes_back(project, kind):
    student = {
        "corpus": "reviews-by-words",
        "model": {"kind": kind, **KINDS[kind]},
        "head": {"kind": "sequence"},
        "train": TRAIN | {"max_steps": 80},
    }
    write(project, {"s": student})
    run("tokenize", "p.yaml", "reviews-by-words")
    run("train", "p.yaml")
    folder = project / "artifacts/students/s"
    task = Classification(kind="classification", file="reviews.tsv")
    found = task.score(open_subject(folder, "cpu"), NOTHING, Path())
    assert found["classification.accuracy"] > 0.95
    encoder, tokenizer = loaded(folder), load_tokenizer(folder)
    tokens = Tokens.of(read_rows(tokenizer, [Row(t) for t, _ in reviews()], 32, "").encoded, 0)
    said = ask(encoder, tokens, LOGITS, "fp32")
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        theirs = model(**batch(tokens)).logits
    torch.testing.assert_close(theirs, said, rtol=0, atol=1e-5)
    (project / "new.tsv").write_text("text\nThe bell is broken.\nThe lamp near it is fresh!\n")
    run("predict", str(folder), "new.tsv", "labels.jsonl")
    labels = [json.loads(line) for line in (project / "labels.jsonl").read_text().splitlines()]
    assert [line["label"] for line in labels] == ["bad", "good"]


def test_a_tagger_goes_on_with_its_own_words_alone(project):
    model = {"kind": "id_cnn", **KINDS["id_cnn"]}
    train = TRAIN | {"max_steps": 2}
    first = {"corpus": "tags-by-words", "model": model, "head": {"kind": "token"}, "train": train}
    begun = {"kind": "checkpoint", "model": "artifacts/students/first"}
    tagged = {"sources": [{"kind": "conll", "files": ["tags.conll"]}], "validation": 0.5}
    write(
        project,
        {"first": first}
        | {
            name: {**first, "corpus": name, "model": begun, "head": {"kind": "token"}}
            for name in ("own", "others")
        },
        corpora={
            "own": {**tagged, "tokenizer": "artifacts/students/first"},
            "others": {**tagged, "tokenizer": {"kind": "words", "min_frequency": 9}},
        },
    )
    run("tokenize", "p.yaml", "tags-by-words")
    run("train", "p.yaml", "first")
    run("tokenize", "p.yaml", "own", "others")
    run("train", "p.yaml", "own")
    place = open_project(Path("p.yaml"))
    with pytest.raises(UsageError) as caught:
        job.prepare(place, "others", *place.inputs("others"), "cpu")
    assert str(caught.value) == (
        "artifacts/students/first has other words than the corpus: set tokenizer:"
        " artifacts/students/first for that corpus and run 'kdpipe tokenize'"
    )


def test_embeddings_by_words_from_a_teacher_that_reads_pieces(project):
    student = {
        "caches": ["said"],
        "corpus": "text-by-words",
        "model": {"kind": "cnn_lstm", **KINDS["cnn_lstm"]},
        "objectives": [{"kind": "embedding"}],
        "train": TRAIN | {"max_steps": 80},
    }
    source = {"kind": "files", "files": ["text.txt"]}
    corpus = {"sources": [source], "tokenizer": {"kind": "words"}, "validation": 0.2}
    place = write(project, {"s": student}, corpora={"text-by-words": corpus})
    run("tokenize", "p.yaml", "text", "text-by-words")
    run("cache-teacher", "p.yaml")
    run("train", "p.yaml")
    folder = project / "artifacts/students/s"
    run("predict", str(folder), "text.txt", "vectors.npy")
    found = torch.from_numpy(np.load("vectors.npy"))
    theirs = said_by(place.teacher("tiny").load(), tiny_tokenizer(), SENTENCES)
    held = place.corpus("text-by-words").held_out
    close = torch.cosine_similarity(found, theirs)
    assert close[~held].mean() > 0.95
    run("parameters", str(folder))
    assert "kdpipe predict path/to/s my.txt vectors.npy" in (folder / "README.md").read_text()


def encoder_of(kind: str, tokenizer: Tokenizer, **keys: Any) -> Encoder:
    torch.manual_seed(0)
    return Encoder(net(kind, **keys).build(None, tokenizer), HeadSpec(("mean", "max")), []).eval()


def said_by(encoder: Encoder, tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    tokens = Tokens.of(read_rows(tokenizer, [Row(text) for text in texts], 32, "").encoded, 0)
    return observe(encoder, tokens, frozenset({EMBEDDING}), "fp32")[EMBEDDING]


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_words_are_told_apart_by_how_they_are_written(project, kind):
    tokenizer = made(TEXT)
    one, other, shaped = said_by(
        encoder_of(kind, tokenizer), tokenizer, ["the xyz", "the zyx", "the XYZ"]
    )
    assert torch.equal(one, other) == (kind != "cnn_lstm")
    assert torch.equal(one, shaped) == (kind == "recurrent")


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_blank_texts_change_nothing(project, kind):
    tokenizer = made(TEXT)
    encoder = encoder_of(kind, tokenizer)
    texts = ["the cat", "", "A dog sees the end of a very long text.", " ", "x"]
    together = said_by(encoder, tokenizer, texts)
    for row, text in enumerate(texts):
        alone = said_by(encoder, tokenizer, [text])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-6)
    assert not together[[1, 3]].any()
    assert together[[0, 2, 4]].any(1).all()


def test_sizes_are_those_of_nlp_architect(project):
    words = [f"w{number}" for number in range(200)]
    tokenizer = made([" ".join(words)])
    table = 203 * 100
    parts = {}
    for kind in ("cnn_lstm", "id_cnn"):
        model = NETS[kind](kind=kind).build(None, tokenizer)
        parts[kind] = sum(p.numel() for p in model.parameters()) - table
    characters = 58 * 16 + 16 * 3 * 128 + 128
    first, second = (2 * 4 * (100 * (inputs + 100) + 200) for inputs in (228, 200))
    assert parts["cnn_lstm"] == characters + first + second
    assert parts["id_cnn"] == 5 * 5 + (105 * 3 + 1) * 128 + 3 * (128 * 3 + 1) * 128
    assert 0.50e6 < parts["cnn_lstm"] < 0.52e6
    assert 0.18e6 < parts["id_cnn"] < 0.20e6


GLOVE = "cat 1 2 3\nthe 4 5 6\nunused 7 8 9\nsees -1 -2 -3\n"


def table(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.get_input_embeddings().weight.detach()
    return found


@pytest.mark.parametrize("kind", ["cnn_lstm", "id_cnn"])
def test_a_table_begins_with_word_vectors(project, kind):
    Path("glove.txt").write_text(GLOVE)
    tokenizer = made(TEXT)
    torch.manual_seed(3)
    fresh = table(net(kind, word_width=3).build(None, tokenizer))
    torch.manual_seed(3)
    found = table(net(kind, word_width=3, vectors="glove.txt").build(None, tokenizer))
    vocabulary = words_of(tokenizer)
    vectors = {"cat": [1, 2, 3], "the": [4, 5, 6], "The": [4, 5, 6], "sees": [-1, -2, -3]}
    spread = torch.tensor([*vectors.values()]).float().std()
    for number, word in enumerate(vocabulary[3:], start=3):
        wanted = torch.tensor(vectors.get(word, [])).float()
        wanted = wanted if word in vectors else fresh[number] * spread
        torch.testing.assert_close(found[number], wanted)
    assert not found[0].any()
    torch.testing.assert_close(found[1], found[3:].mean(0))
    torch.testing.assert_close(fresh[1], fresh[3:].mean(0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat 1 2\n", "glove.txt has vectors of 2 numbers: set word_width to that"),
        ("mouse 1 2 3\n", "glove.txt has a vector for none of the 12 words"),
    ],
)
def test_word_vectors_that_do_not_fit(project, text, message):
    Path("glove.txt").write_text(text)
    with pytest.raises(UsageError) as caught:
        net("cnn_lstm", word_width=3, vectors="glove.txt").build(None, made(TEXT))
    assert str(caught.value) == message


def test_other_word_vectors_make_another_student(project, capsys):
    model = {"kind": "id_cnn", **KINDS["id_cnn"], "word_width": 3, "vectors": "glove.txt"}
    head, train = {"kind": "token"}, TRAIN | {"max_steps": 2}
    write(
        project,
        {"s": {"corpus": "tags-by-words", "model": model, "head": head, "train": train}},
    )
    run("tokenize", "p.yaml", "tags-by-words")
    assert main(["train", "p.yaml"]) == 3
    missing = "glove.txt does not exist: check 'vectors' of the student's model"
    assert missing in capsys.readouterr().err
    for text, told in ((GLOVE, "best at"), (GLOVE, "up to date"), (f"{GLOVE}bell 1 1 1\n", "best")):
        Path("glove.txt").write_text(text)
        run("train", "p.yaml")
        assert told in capsys.readouterr().err
    found = stages(open_project(Path("p.yaml")).pipeline, Path("p.yaml"), Path())
    assert found["train-s"]["deps"] == [
        "artifacts/corpora/tags-by-words/manifest.json",
        "glove.txt",
    ]
    assert found["tokenize-tags-by-words"]["deps"] == ["tags.conll"]


def note(seen: list[torch.Tensor], _: Any, given: tuple[torch.Tensor]) -> None:
    seen.append(given[0])


def test_forgotten_words_are_unknown_ones_in_training_alone(project):
    tokenizer = made([" ".join(f"w{number}" for number in range(400))])
    names = [f"w{number}" for number in range(400)]
    for kind in ("cnn_lstm", "id_cnn"):
        model = net(kind, word_dropout=0.3).build(None, tokenizer)
        seen = list[torch.Tensor]()
        model.net.words.register_forward_pre_hook(partial(note, seen))
        tokens = Tokens.of(tokenizer.encode_words([names], 400), 0)
        assert tokens.ids.min() > 2
        for training in (True, False):
            model.train(training)
            model(**batch(tokens))
        assert (seen[0] == 1).float().mean().item() == pytest.approx(0.3, abs=0.08)
        assert torch.equal(seen[0][seen[0] != 1], tokens.ids[seen[0][0] != 1])
        assert torch.equal(seen[1][0], tokens.ids)


def test_a_tagger_by_words_learns_from_a_teacher_that_reads_pieces(project):
    """Its corpus is another one; words are matched by their place."""
    reading = {"tokenizer": "tuned", "max_seq_length": 32, "validation": 0.2}
    source = {"kind": "conll", "files": ["tags.conll"], "label_column": None}
    unlabelled = {"sources": [source], "validation": 0.2}
    tuned = {
        "corpus": "tags",
        "model": {"kind": "checkpoint", "model": "teacher"},
        "head": {"kind": "token"},
    }
    student = {
        "caches": ["tags"],
        "corpus": "plain-by-words",
        "model": {"kind": "id_cnn", **KINDS["id_cnn"]},
        "head": {"kind": "token", "crf": True},
        "objectives": [{"kind": "logits"}, {"kind": "labels", "pseudo_labels": True}],
        "evaluate": [{"kind": "tagging", "file": "tags.conll"}],
    }
    cache = {"corpus": "plain", "teacher": "tuned", "dtype": "fp32"}
    write(
        project,
        {"big": tuned, "s": student},
        corpora={
            "plain": {"sources": [source], **reading},
            "plain-by-words": {**unlabelled, "tokenizer": {"kind": "words"}},
        },
        teachers={"tuned": {"model": "artifacts/students/big"}},
        caches={"tags": {**cache, "targets": [{"kind": "logits", "per": "token"}]}},
    )
    run("tokenize", "p.yaml", "tags")
    run("train", "p.yaml", "big")
    run("tokenize", "p.yaml", "plain", "plain-by-words")
    run("cache-teacher", "p.yaml", "tags")
    run("train", "p.yaml", "s")
    run("evaluate", "p.yaml", "s")
    scores = json.loads((project / "reports/s/metrics.json").read_text())
    assert scores["teacher"]["tagging.f1"] > 0.95
    assert scores["student"]["tagging.f1"] > 0.9


def test_a_tagger_by_words_can_be_a_teacher(project):
    first = {
        "corpus": "tags-by-words",
        "model": {"kind": "cnn_lstm", **KINDS["cnn_lstm"]},
        "head": {"kind": "token"},
    }
    again = {
        "corpus": None,
        "caches": ["taught"],
        "model": {"kind": "id_cnn", **KINDS["id_cnn"]},
        "head": {"kind": "token"},
        "objectives": [{"kind": "logits"}],
    }
    source = {"kind": "conll", "files": ["tags.conll"], "label_column": None}
    cache = {"corpus": "more", "teacher": "first", "dtype": "fp32"}
    write(
        project,
        {"first": first, "s": again},
        corpora={"more": {"sources": [source], "tokenizer": "first", "validation": 0.2}},
        teachers={"first": {"model": "artifacts/students/first"}},
        caches={"taught": {**cache, "targets": [{"kind": "logits", "per": "token"}]}},
    )
    run("tokenize", "p.yaml", "tags-by-words")
    run("train", "p.yaml", "first")
    run("tokenize", "p.yaml", "more")
    run("cache-teacher", "p.yaml", "taught")
    place = open_project(Path("p.yaml"))
    corpus, caches = place.inputs("s")
    tokens = Tokens.of(corpus.gather(np.arange(9)), 0)
    live = ask(place.teacher("first").load(), tokens, TOKEN_LOGITS, "fp32")
    kept = caches["taught"].read(np.arange(9), frozenset({TOKEN_LOGITS}))[TOKEN_LOGITS]
    torch.testing.assert_close(kept, live, rtol=0, atol=1e-5)
    run("train", "p.yaml", "s")
    assert f1(project / "artifacts/students/s") > 0.9
