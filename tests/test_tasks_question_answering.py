"""Answers to questions from models that know some words, and how these are measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering

from kdpipe.activations import Tokens
from kdpipe.encoder import Encoder
from kdpipe.errors import ArtifactError, NonFiniteError, UsageError
from kdpipe.modules import HeadSpec
from kdpipe.predict import answers
from kdpipe.sources.squad import Answer, Question
from kdpipe.tasks import QuestionAnswering
from kdpipe.tasks.question_answering import answers_of
from kdpipe.tasks.subject import HeldOut, Subject
from kdpipe.tokenizer import Tokenizer
from tests.test_tokenizer import byte_level
from tests.tiny import SENTENCES, tiny_encoder, tiny_tokenizer

TEXT = " ".join(SENTENCES[:12])


def knowing(
    starts: Mapping[str, float], ends: Mapping[str, float], tokenizer: Tokenizer | None = None
) -> Encoder:
    """A real model without layers: the logits of these tokens are these, those of all others 0."""
    tokenizer = tokenizer or tiny_tokenizer()
    size = tokenizer.vocabulary
    config = AutoConfig.for_model(
        "bert",
        vocab_size=size,
        hidden_size=size,
        num_hidden_layers=0,
        num_attention_heads=1,
        intermediate_size=1,
        max_position_embeddings=64,
        layer_norm_eps=1e-12,
    )
    model = AutoModelForQuestionAnswering.from_config(config, dtype=torch.float32)
    wanted = torch.zeros(2, size)
    for row, logits in zip(wanted, (starts, ends), strict=True):
        for token, logit in logits.items():
            place = tokenizer.backend.token_to_id(token)
            assert place is not None, token
            row[place] = logit
    weights = model.state_dict()
    for name, tensor in weights.items():
        if "embeddings.LayerNorm" not in name:
            tensor.zero_()
    weights["bert.embeddings.word_embeddings.weight"].copy_(torch.eye(size))
    # What the normalisation of embeddings makes of a row of the identity, undone.
    mean, deviation = 1 / size, (1 / size - 1 / size**2) ** 0.5
    weights["qa_outputs.weight"].copy_(wanted * deviation)
    weights["qa_outputs.bias"].copy_(wanted.sum(1) * mean)
    return Encoder(model, HeadSpec(), [], "span").eval()


def subject(encoder: Encoder, limit: int = 64, prompt: str = "") -> Subject:
    return Subject("tiny", encoder, tiny_tokenizer(), limit, prompt, "fp32")


def asked(context: str, *answers: str, question: str = "Who is it?") -> Question:
    found = tuple(Answer(text, context.index(text)) for text in answers)
    return Question("q", question, context, found)


def said(encoder: Encoder, *contexts: str, limit: int = 64, **keys: Any) -> list[str]:
    questions = [asked(context) for context in contexts]
    keys = {"doc_stride": 4, **keys}
    return [answer.text for answer in answers_of(subject(encoder, limit), questions, **keys)]


def test_a_model_that_knows_words_says_them() -> None:
    encoder = knowing({"dog": 5.0}, {"door": 5.0})
    assert said(encoder, SENTENCES[2], SENTENCES[3], SENTENCES[4]) == [
        "dog waits at the green door",
        "dog is waiting by the door",
        "Rain",
    ]


def test_long_contexts_are_searched_to_their_end() -> None:
    encoder = knowing({"fresh": 5.0}, {"good": 5.0})
    assert SENTENCES[12].startswith("Fresh")
    for context in (" ".join(SENTENCES), " ".join(SENTENCES[12:]), " ".join(SENTENCES[:13])):
        assert said(encoder, context, limit=24) == ["Fresh bread smells good"]
    for length, text in ((4, "Fresh bread smells good"), (3, "Fresh"), (1, "Fresh")):
        encoder = knowing({"fresh": 5.0}, {"good": 4.0, "fresh": 0.5})
        assert said(encoder, " ".join(SENTENCES), limit=24, max_answer_length=length) == [text]
    known = {"cat": 2.0, "mill": 4.0, "snow": 3.0}
    assert said(knowing(known, known), TEXT, " ".join(SENTENCES), limit=24) == ["snow", "mill"]


def test_characters_are_those_of_the_text_as_it_stands() -> None:
    encoder = knowing({"dog": 5.0}, {"door": 5.0})
    contexts = [
        "\U0001f600\U0001f600 the D\u00d6G waits\u2026 at\tthe  d\u00f3\u00f2r!\u200b",
        "\u0644\u0627 e\u0301e\u0301e\u0301. Dog, door",
        "dog\u00a0door",
    ]
    wanted = [
        "D\u00d6G waits\u2026 at\tthe  d\u00f3\u00f2r",
        "Dog, door",
        "dog\u00a0door",
    ]
    assert said(encoder, *contexts, limit=64, doc_stride=20) == wanted
    assert said(encoder, *contexts, limit=24, doc_stride=8) == wanted


def test_blanks_that_a_token_begins_with_are_no_part_of_an_answer() -> None:
    tokenizer = byte_level("c a", "ca t", "\u0120 cat", trim=False)
    encoder = knowing({"\u0120cat": 5.0}, {"t": 2.0, "\u0120cat": 1.0}, tokenizer)
    reader = Subject("bytes", encoder, tokenizer, 64, "", "fp32")
    contexts = ("a  cat sat", "dogs, a cat.")
    found = answers_of(reader, [asked(context) for context in contexts], doc_stride=4)
    assert [text for text, _ in found] == ["cat sat", "cat"]


def test_the_question_and_special_tokens_are_no_answer() -> None:
    tokens = ("[CLS]", "w", "##h", "##o", "is", "it", "?", "[SEP]")
    logits = {"cat": 1.0, **dict.fromkeys(tokens, 9.0)}
    encoder = knowing(logits, logits)
    assert said(encoder, "A cat.") == ["cat"]
    assert said(encoder, "\u200b", "A cat.") == ["", "cat"]
    (nothing, _) = answers_of(subject(encoder), [asked("\u200b"), asked("A cat.")], doc_stride=4)
    assert nothing == ("", 0.0)


def test_the_prompt_stands_before_the_question() -> None:
    logits = {"cat": 9.0, "the": 3.0}
    one = asked("A dog waits at the door.", question="A cat?")
    for prompt in ("", "the cat: "):
        asker = subject(knowing(logits, logits), prompt=prompt)
        ((text, probability),) = answers_of(asker, [one], doc_stride=4)
        assert text == "the"
        tokens = tiny_tokenizer().backend.encode(f"{prompt}A cat?", one.context).tokens
        whole = sum(math.exp(logits.get(token, 0.0)) for token in tokens)
        assert probability == pytest.approx((math.exp(3.0) / whole) ** 2, rel=1e-3)


def test_records_have_the_id_whatever_it_is() -> None:
    questions = [asked("A d\u00d6g.")._replace(id=id) for id in ("a 1", "\u2603", "half \ud800")]
    reader = subject(knowing({"dog": 50.0}, {"dog": 50.0}))
    lines = [*answers(reader, iter(questions), 4)]
    assert lines[1] == '{"id": "\u2603", "answer": "d\u00d6g", "score": 1.0}\n'.encode()
    assert [json.loads(line)["id"] for line in lines] == [one.id for one in questions]


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """As a table without `answers` where nobody answered anything."""
    lines = []
    for one in questions:
        record: dict[str, Any] = one._asdict()
        if one.answers:
            record["answers"] = [answer._asdict() for answer in one.answers]
        else:
            del record["answers"]
        lines.append(json.dumps(record) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


MEASURED = [
    asked(SENTENCES[2], "door", "The dog waits at the green door"),
    asked(SENTENCES[3], "A dog is", "the door"),
    asked("The dog or the old door of the mill.", "mill"),
]
EMPTY = HeldOut(Tokens(torch.empty(0), torch.empty(0)), None)


def measured(root: Path, encoder: Encoder, limit: int = 64, **keys: Any) -> dict[str, float]:
    keys = {"doc_stride": 4, **keys}
    task = QuestionAnswering(kind="question_answering", file="q.jsonl", **keys)
    return task.score(subject(encoder, limit), EMPTY, root)


def test_scores_are_those_of_the_best_answer(tmp_path: Path) -> None:
    write_questions(tmp_path / "q.jsonl", MEASURED)
    encoder = knowing({"dog": 5.0}, {"door": 5.0})
    # Said: all but the article; an answer of two words, and 3 more; nothing of it.
    exact, f1 = 1 / 3, (1 + 4 / 7 + 0) / 3
    assert measured(tmp_path, encoder) == pytest.approx(
        {"question_answering.f1": f1, "question_answering.exact_match": exact}
    )
    encoder = knowing({"dog": 5.0, "green": 0.5}, {"door": 5.0, "dog": 1.0})
    # Said: dog, which is one word of 5, one of two, and wrong.
    assert measured(tmp_path, encoder, name="mill", max_answer_length=1) == pytest.approx(
        {"mill.f1": (2 / 6 + 2 / 3 + 0) / 3, "mill.exact_match": 0.0}
    )
    encoder = knowing({"dog": 1.5, ".": 9.0}, {"dog": 9.0})
    # Where only the best start and the best end count, no span is left.
    assert measured(tmp_path, encoder, n_best_size=1) == {
        "question_answering.f1": 0.0,
        "question_answering.exact_match": 0.0,
    }
    said_dog = (2 / 6 + 2 / 3 + 0) / 3
    assert measured(tmp_path, encoder)["question_answering.f1"] == pytest.approx(said_dog)


def test_other_models_have_no_score(tmp_path: Path) -> None:
    assert measured(tmp_path, tiny_encoder()) == {}


def test_the_main_metric_and_the_files() -> None:
    task = QuestionAnswering(kind="question_answering", file="a/q.json")
    assert (task.main, task.files()) == ("question_answering.f1", ["a/q.json"])
    assert QuestionAnswering(kind="question_answering", file="q", name="hard").main == "hard.f1"


def test_mistakes(tmp_path: Path) -> None:
    encoder = knowing({}, {})
    with pytest.raises(ArtifactError, match=r"q\.jsonl does not exist: check"):
        measured(tmp_path, encoder)
    write_questions(tmp_path / "q.jsonl", [MEASURED[0], asked(TEXT)._replace(id="q 2")])
    with pytest.raises(ArtifactError) as caught:
        measured(tmp_path, encoder)
    assert str(caught.value) == "q.jsonl: question 'q 2' has no answers to measure by: take it out"
    write_questions(tmp_path / "q.jsonl", MEASURED)
    with pytest.raises(UsageError) as wide:
        measured(tmp_path, encoder, doc_stride=128)
    assert str(wide.value) == (
        "doc_stride is 128, but windows of 64 tokens have room for 29 of the context beside a"
        " question: lower it, or raise max_seq_length"
    )
    with torch.no_grad():
        encoder.get_parameter("model.qa_outputs.bias")[1] = torch.nan
    with pytest.raises(NonFiniteError, match=r"^tiny gives NaN or Inf for \d+ of \d+ tokens: "):
        measured(tmp_path, encoder)
