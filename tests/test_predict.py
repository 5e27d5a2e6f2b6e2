"""`kdpipe predict`: a file in, a file out, a record for every row and in the order of the rows."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from kdpipe import predict
from kdpipe.activations import Tokens
from kdpipe.encoder import Encoder, ask
from kdpipe.errors import UsageError
from kdpipe.folder import write_model
from kdpipe.load import load_encoder
from kdpipe.modules import HeadSpec, head_of
from kdpipe.sources import Conll
from kdpipe.sources.row import Row
from tests.ends import command, fails
from tests.masked import masked_folder
from tests.tiny import SENTENCES, tiny_headed_folder, tiny_teacher_folder, tiny_tokenizer

CLASSES = ("sun", "rain", "snow")
TEXTS = [*SENTENCES[:9], "", "  ", SENTENCES[9], "the cat " * 40]
"""Blank ones too, and one beyond every limit."""
LIMIT = 24


@pytest.fixture(autouse=True)
def _in_a_project(project: Path) -> Iterator[None]:
    """An empty folder, and a process that is left as it was."""
    disable_progress_bar()
    environment, hook = dict(os.environ), sys.excepthook
    handler = signal.getsignal(signal.SIGTERM)
    os.environ["KDPIPE_DEVICE"] = "cpu"
    yield
    os.environ.clear()
    os.environ.update(environment)
    sys.excepthook = hook
    signal.signal(signal.SIGTERM, handler)


def student(kind: str, classes: tuple[str, ...] = CLASSES, problem: str | None = None) -> Encoder:
    """A model in `model`, as `train` writes it."""
    folder = tiny_headed_folder(Path("teacher"), kind, classes, problem, seed=1)
    encoder = load_encoder(folder, HeadSpec())
    write_model(Path("model"), encoder, tiny_tokenizer(), max_seq_length=LIMIT, prompt="so: ")
    return encoder


def logits(encoder: Encoder, texts: list[Any]) -> torch.Tensor:
    """[R, C]: what the model says about texts, or pairs, with its prompt and cut to its limit."""
    rows = [(f"so: {x[0]}", x[1]) if isinstance(x, tuple) else f"so: {x}" for x in texts]
    tokens = Tokens.of(tiny_tokenizer().encode(rows, LIMIT), 0)
    return ask(encoder, tokens, encoder.voice, "fp32")


def records(file: str, *options: str) -> list[dict[str, Any]]:
    """What the command writes."""
    command(["predict", "model", file, "out.jsonl", *options])
    return [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]


def write_texts(texts: list[str] = TEXTS) -> None:
    Path("texts.txt").write_text("".join(f"{text}\n" for text in texts), "utf-8")


def test_a_classifier_gives_a_label_and_its_probability() -> None:
    said = logits(student("sequence"), TEXTS).softmax(-1)
    write_texts()
    found = records("texts.txt")
    assert [one["label"] for one in found] == [CLASSES[place] for place in said.argmax(1)]
    assert [one["score"] for one in found] == pytest.approx(said.amax(1).tolist(), abs=2e-6)
    assert {*found[0]} == {"label", "score"}
    assert len({one["label"] for one in found}) > 1
    # The limit is that of the folder, not all of the model's positions.
    assert found[-1] == records("texts.txt")[-1]
    write_texts(["the cat " * 11])
    assert records("texts.txt")[0]["score"] == pytest.approx(found[-1]["score"], abs=2e-6)


@pytest.mark.parametrize("suffix", ["tsv", "jsonl", "parquet"])
def test_pairs_are_read_together(suffix: str) -> None:
    pairs = [("A dog waits.", "The cat sleeps."), ("", "Rain."), ("Snow.", ""), ("A", "B")]
    said = logits(student("sequence"), pairs).softmax(-1)
    rows = [{"one": one, "other": other} for one, other in pairs]
    if suffix == "parquet":
        rows[1]["one"] = None  # type: ignore[assignment]
        pa.parquet.write_table(pa.Table.from_pylist(rows), "pairs.parquet")
    elif suffix == "jsonl":
        Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = ["one\tother", *("\t".join(pair) for pair in pairs)]
        Path("pairs.tsv").write_text("".join(f"{line}\n" for line in lines))
    found = records(f"pairs.{suffix}", "--text-column", "one", "--text-pair-column", "other")
    assert [one["label"] for one in found] == [CLASSES[place] for place in said.argmax(1)]
    assert [one["score"] for one in found] == pytest.approx(said.amax(1).tolist(), abs=2e-6)


def test_several_labels_and_their_probabilities() -> None:
    said = logits(student("sequence", problem="multi_label_classification"), TEXTS).sigmoid()
    write_texts()
    found = records("texts.txt")
    there = [[place for place in range(3) if row[place] > 0.5] for row in said]
    assert [one["labels"] for one in found] == [[CLASSES[n] for n in row] for row in there]
    for one, row, places in zip(found, said, there, strict=True):
        assert one["scores"] == pytest.approx(row[places].tolist(), abs=2e-6)
    assert len({len(row) for row in there}) > 1


def test_a_regression_gives_a_number() -> None:
    said = logits(student("sequence", ("LABEL_0",), "regression"), TEXTS)[:, 0]
    write_texts()
    found = records("texts.txt")
    assert {key for one in found for key in one} == {"score"}
    assert [one["score"] for one in found] == pytest.approx(said.tolist(), abs=2e-6)


def tags(encoder: Encoder, words: list[str]) -> list[str]:
    """The tag at the first token of each word, O where the limit leaves none."""
    pieces = [tiny_tokenizer().backend.encode(word).ids[1:-1] for word in ["so:", *words]]
    ids = [2, *[piece for some in pieces for piece in some][: LIMIT - 2], 3]
    tokens = Tokens(torch.tensor(ids), torch.tensor([len(ids)]))
    likely = ask(encoder, tokens, encoder.voice, "fp32").argmax(1)
    firsts = np.cumsum([1, *map(len, pieces)])[1:-1]
    return [CLASSES[likely[n]] if n < LIMIT - 1 else "O" for n in firsts]


def test_a_tagger_gives_each_word_a_tag() -> None:
    encoder = student("token")
    texts = ["The cat  sleeps.", "", "Stovepipes rattle", " ".join(["zigzag"] * 9)]
    write_texts(texts)
    found = records("texts.txt")
    assert [one["words"] for one in found] == [text.split() for text in texts]
    assert [one["tags"] for one in found] == [tags(encoder, text.split()) for text in texts]
    assert found[3]["tags"][-1] == "O"
    assert {*found[0]["tags"]} <= {*CLASSES}


def test_a_tagger_reads_lists_of_words() -> None:
    encoder = student("token")
    rows = [["The", "cat", "", "don't"], None, [], ["late"]]
    Path("x.jsonl").write_text("".join(json.dumps({"tokens": row}) + "\n" for row in rows))
    found = records("x.jsonl", "--text-column", "tokens")
    assert [one["words"] for one in found] == [row or [] for row in rows]
    assert found[0]["tags"] == [
        *tags(encoder, ["The", "cat"]), "O", tags(encoder, ["The", "cat", "don't"])[-1]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.conll", "The X O\ncat X B\n\nlate X O\n"),
        ("a.iob2", "-DOCSTART- X O\n\nThe X O\ncat X B\n\n\nlate X O\n"),
        ("a.bio", "The\ncat\n\nlate\n"),
        ("a.conllu", "# one\n1\tThe\tthe\n2-3\tcatx\t_\n2\tcat\tcat\n\n1\tlate\tlate\n"),
    ],
)
def test_a_tagger_reads_columns_of_words(name: str, text: str) -> None:
    encoder = student("token")
    Path(name).write_text(text)
    words = [["The", "cat"], ["late"]]
    assert records(name) == [{"words": row, "tags": tags(encoder, row)} for row in words]


def test_a_file_of_any_name_has_columns_where_one_is_named(capsys) -> None:
    encoder = student("token")
    Path("test.txt").write_text("-DOCSTART- -X-\n\n0 The\n1 cat\n\n0 late\n")
    words = [["The", "cat"], ["late"]]
    found = records("test.txt", "--word-column", "1")
    assert found == [{"words": row, "tags": tags(encoder, row)} for row in words]
    capsys.readouterr()
    line = fails(capsys, ["predict", "model", "test.txt", "x.jsonl", "--word-column", "2"], 3)
    assert line.startswith("test.txt:3: 2 columns, none is word_column 2: ")
    student("sequence")
    line = fails(capsys, ["predict", "model", "test.txt", "x.jsonl", "--word-column", "1"], 2)
    assert line == "the model gives no tags of words: take out --word-column"


def test_tags_in_columns_come_back_as_a_file_of_tagged_words(monkeypatch) -> None:
    monkeypatch.setattr(predict, "_AT_A_TIME", 2)
    encoder = student("token")
    texts = ["The cat  sleeps.", "", "# rattles", "Late"]
    write_texts(texts)
    command(["predict", "model", "texts.txt", "out.conll"])
    rows = [(text.split(), tags(encoder, text.split())) for text in texts]
    wanted = [
        "".join(f"{word}\t{tag}\n" for word, tag in zip(*row, strict=True)) + "\n" for row in rows
    ]
    assert Path("out.conll").read_text("utf-8") == "".join(wanted)
    found = [*Conll(kind="conll", files=("out.conll",)).rows(Path())]
    assert [row.words for row in found] == [tuple(words) for words, _ in rows if words]
    assert [row.label for row in found] == [tuple(tags) for _, tags in rows if tags]
    # From columns to columns.
    command(["predict", "model", "out.conll", "again.conll"])
    assert Path("again.conll").read_text("utf-8") == "".join(wanted[:1] + wanted[2:])


@pytest.mark.parametrize("word", ["", " ", "a\tb", "a\nb"])
def test_a_word_that_is_no_column(capsys, word: str) -> None:
    student("token")
    rows = [["The"], ["cat", word]]
    Path("x.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    assert fails(capsys, ["predict", "model", "x.jsonl", "out.conll"], 2) == (
        f"row 2: {word!r} cannot stand in a column: end the name of the output in .jsonl"
    )
    assert not Path("out.conll").exists()


def test_lists_of_words_are_text_to_a_classifier() -> None:
    said = logits(student("sequence"), ["The cat", "", "late"]).softmax(-1)
    rows = [["The", "cat"], None, ["late"]]
    Path("x.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    found = [one["score"] for one in records("x.jsonl")]
    assert found == pytest.approx(said.amax(1).tolist(), abs=2e-6)


def test_a_model_without_a_head_gives_embeddings() -> None:
    folder = tiny_teacher_folder(Path("model"))
    write_texts()
    command(["predict", "model", "texts.txt", "out.npy"])
    found = np.load("out.npy", allow_pickle=False)
    encoder = load_encoder(folder, head_of(folder))
    tokens = Tokens.of(tiny_tokenizer().encode(TEXTS, 32), 0)
    assert (found.dtype, found.shape) == (np.float32, (len(TEXTS), 32))
    np.testing.assert_allclose(
        found, ask(encoder, tokens, encoder.voice, "fp32").numpy(), atol=1e-6
    )


def test_rows_are_read_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    write_texts(SENTENCES)
    student("sequence")
    whole = records("texts.txt")
    monkeypatch.setattr(predict, "_AT_A_TIME", 7)
    some = records("texts.txt")
    assert [one["label"] for one in some] == [one["label"] for one in whole]
    assert len(some) == len(SENTENCES)
    tiny_teacher_folder(Path("plain"))
    subject = predict.open_subject(Path("plain"), "cpu")
    rows = [Row(text) for text in SENTENCES]
    assert predict.embeddings(subject, rows).shape == (60, 32)
    assert predict.embeddings(subject, []).shape == (0, 32)
    assert [*predict.records(predict.open_subject(Path("model"), "cpu"), [])] == []


@pytest.mark.parametrize(
    ("kind", "words", "code", "line"),
    [
        ("sequence", ["texts.txt", "out.npy"], 2,
         "out.npy: model gives .jsonl files: end its name in .jsonl"),
        ("sequence", ["texts.txt", "out"], 2,
         "out: model gives .jsonl files: end its name in .jsonl"),
        (None, ["texts.txt", "out.jsonl"], 2,
         "out.jsonl: model gives .npy files: end its name in .npy"),
        ("token", ["texts.tsv", "out.jsonl", "--text-pair-column", "b"], 2,
         "a tagger reads words of one text: take out --text-pair-column"),
        ("sequence", ["texts.txt", "out.conll"], 2,
         "out.conll: model gives .jsonl files: end its name in .jsonl"),
        ("token", ["texts.txt", "out.txt"], 2,
         "out.txt: model gives .jsonl and .conll files: end its name in .jsonl"),
        ("sequence", ["none.txt", "out.jsonl"], 3,
         "none.txt does not exist: check the path"),
        ("sequence", ["texts.tsv", "out.jsonl"], 3,
         "texts.tsv:1: no column 'text': allowed: a, b: choose one with --text-column"),
        ("sequence", ["texts.tsv", "out.jsonl", "--text-column", "a", "--text-pair-column", "c"], 3,
         "texts.tsv:1: no column 'c': allowed: a, b: choose one with --text-pair-column"),
        ("token", ["texts.jsonl", "out.jsonl"], 3,
         "texts.jsonl:1: no column 'text': allowed: a: choose one with --text-column"),
        ("sequence", ["texts.conll", "out.jsonl"], 2,
         "texts.conll: unknown format '.conll': did you mean '.jsonl'? allowed: .txt,"),
    ],
)  # fmt: skip
def test_what_cannot_be_predicted_is_one_line(capsys, kind, words, code, line) -> None:
    if kind is None:
        tiny_teacher_folder(Path("model"))
    else:
        student(kind)
    write_texts()
    Path("texts.tsv").write_text("a\tb\nx\ty\n")
    Path("texts.jsonl").write_text('{"a": "x"}\n')
    Path("texts.conll").write_text("a\tO\n")
    capsys.readouterr()
    assert fails(capsys, ["predict", "model", *words], code).startswith(line)
    assert not Path(words[1]).exists()


def test_a_folder_that_is_no_model(capsys) -> None:
    write_texts()
    found = fails(capsys, ["predict", "nowhere", "texts.txt", "out.npy"], 3)
    assert found.startswith("nowhere is not on this disk")
    Path("empty").mkdir()
    assert fails(capsys, ["predict", "empty", "texts.txt", "out.npy"], 3) == (
        "empty has no config.json: it is not a Hugging Face model folder"
    )


def test_answers_are_not_records() -> None:
    student("span")
    with pytest.raises(UsageError) as caught:
        next(predict.records(predict.open_subject(Path("model"), "cpu"), [Row("a")]))
    assert str(caught.value) == "model gives no labels of rows: use another model"


def test_masked_tokens_are_guessed_as_transformers_guesses_them() -> None:
    masked_folder(Path("model"), seed=3)
    texts = ["The [MASK] sat on the [MASK].", "", "Nothing is hidden here."]
    Path("my.txt").write_text("".join(f"{text}\n" for text in texts))
    command(["predict", "model", "my.txt", "out.jsonl"])
    first, second, third = map(json.loads, Path("out.jsonl").read_text().splitlines())
    assert second == third == {"tokens": [], "scores": []}
    fast = PreTrainedTokenizerFast.from_pretrained("model")
    ids = fast(texts[0], return_tensors="pt").input_ids
    with torch.no_grad():
        logits = AutoModelForMaskedLM.from_pretrained("model")(ids).logits[0]
    likely, likeliest = logits[ids[0] == fast.mask_token_id].softmax(-1).topk(5)
    assert first["tokens"] == [[fast.decode([one]) for one in some] for some in likeliest.tolist()]
    assert np.allclose(first["scores"], likely, atol=1e-6)
    command(["predict", "model", "my.txt", "out.npy"])
    assert np.load("out.npy").shape == (3, 32)
