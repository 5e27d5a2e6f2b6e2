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

from kdpipe.activations import Tokens
from kdpipe.cli import main
from kdpipe.encoder import Encoder, ask, observe
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.modules import HeadSpec
from kdpipe.nets.features import character_array, shape_array
from kdpipe.parts import EMBEDDING, LOGITS, TOKEN_LOGITS
from kdpipe.pipeline import CorpusSpec
from kdpipe.predict import open_subject
from kdpipe.project import open_project
from kdpipe.reading import as_words, read_rows
from kdpipe.sources.row import Row
from kdpipe.students import CNNLSTMStudent, IDCNNStudent, RecurrentStudent
from kdpipe.tasks import Classification, Tagging
from kdpipe.tasks.subject import HeldOut
from kdpipe.tokenizer import Tokenizer, load_tokenizer
from kdpipe.vocabulary import word_tokenizer
from tests.small import TRAIN, loaded, reviews, run, tagged, write
from tests.tiny import tiny_tokenizer

KINDS: dict[str, dict[str, Any]] = {
    "cnn_lstm": {"word_width": 12, "character_filters": 8, "hidden_size": 10, "num_layers": 1}
    | {"dropout": 0.1},
    "id_cnn": {"word_width": 12, "filters": 16, "input_dropout": 0.1},
    "recurrent": {"word_width": 12, "hidden_size": 10},
}
NETS = {"cnn_lstm": CNNLSTMStudent, "id_cnn": IDCNNStudent, "recurrent": RecurrentStudent}


def net(kind: str, **keys: Any) -> Any:
    return NETS[kind](kind=kind, **{**KINDS[kind], **keys})


def corpus_spec(lines: list[str], **keys: Any) -> CorpusSpec:
    """A corpus of a text file in the current folder, or of words where lines have tabs."""
    tagged = any("\t" in line for line in lines)
    name, kind = ("some.conll", "conll") if tagged else ("some.txt", "files")
    Path(name).write_text("\n".join(lines) + "\n")
    source = {"kind": kind, "files": [name]}
    tokenizer = {"kind": "words", **keys.pop("tokenizer", {})}
    spec = {"sources": [source], "tokenizer": tokenizer, "validation": 0, **keys}
    return CorpusSpec.model_validate(spec)


def made(lines: list[str], **keys: Any) -> Tokenizer:
    spec = corpus_spec(lines, **keys)
    assert not isinstance(spec.tokenizer, str)
    return word_tokenizer(spec, spec.tokenizer, Path())


def words_of(tokenizer: Tokenizer) -> list[str]:
    """The vocabulary in the order of its ids."""
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=True)
    assert sorted(vocabulary.values()) == list(range(tokenizer.vocabulary))
    return sorted(vocabulary, key=lambda word: vocabulary[word])


SPECIAL = ["[PAD]", "[UNK]", "[SEP]"]
TEXT = ["The cat sees the cat.", "A dog, the dog", "the end."]


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


@pytest.mark.parametrize("kind", ["cnn_lstm", "id_cnn"])
def test_tokens_that_are_no_words_are_refused(kind):
    with pytest.raises(UsageError) as caught:
        net(kind).build(None, tiny_tokenizer())
    assert str(caught.value) == (
        f"a student of kind {kind!r} reads whole words: give its corpus tokenizer: {{kind: words}}"
    )


@pytest.mark.parametrize("kind", ["cnn_lstm", "id_cnn"])
def test_a_model_is_told_what_it_misses(project, kind):
    model = net(kind).build(None, made(TEXT))
    what = {"cnn_lstm": "characters", "id_cnn": "shapes"}[kind]
    with pytest.raises(UsageError) as caught:
        model(torch.tensor([[3, 4]]))
    assert str(caught.value) == (
        f"this model reads the {what} of words: give it '{what}', which"
        f" kdpipe.nets.features.{what.removesuffix('s')}_array makes"
    )


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
    assert "glove.txt does not exist: check the path of the vectors" in capsys.readouterr().err
    for text, told in ((GLOVE, "best at"), (GLOVE, "up to date"), (f"{GLOVE}bell 1 1 1\n", "best")):
        Path("glove.txt").write_text(text)
        run("train", "p.yaml")
        assert told in capsys.readouterr().err


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
