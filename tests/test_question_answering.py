"""The whole way of question answering: losses of spans, and from labels to a student's answers."""

from __future__ import annotations

import json
import math
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForQuestionAnswering, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from kdpipe import cli, fill_blocks
from kdpipe.activations import Activations, Tokens
from kdpipe.encoder import Encoder, observe
from kdpipe.errors import UsageError
from kdpipe.gold import Gold
from kdpipe.load import load_encoder
from kdpipe.loader import Batch
from kdpipe.modules import HeadSpec
from kdpipe.parts import TOKEN_LOGITS
from kdpipe.pipeline import StudentSpec
from kdpipe.predict import open_subject
from kdpipe.project import open_project
from kdpipe.read_rows import read_rows
from kdpipe.sources import Row, Span
from kdpipe.sources.squad import Answer, Question
from kdpipe.tasks.question_answering import answers_of
from kdpipe.terms import Terms
from tests.test_tasks_question_answering import write_questions
from tests.tiny import SENTENCES, tiny_headed_folder, tiny_teacher_folder, tiny_tokenizer


def in_windows() -> tuple[Tokens, Tensor]:
    """Windows of five questions, and gold labels: one of them without answer."""
    context = " ".join(SENTENCES[:6])
    rows = [
        Row("Is it?", context, Span(context.index("dog"), context.index("dog") + 9), None, 4),
        Row("The cat", SENTENCES[0], Span(4, 7), None, 4),
        Row("Who?", context, None, None, 4),
        Row("Who waits?", context, Span(0, len(context)), None, 4),
    ]
    read = read_rows(tiny_tokenizer(), rows, 24, "")
    gold = Gold("span", ("start", "end")).of(read.labels, read.encoded)
    return Tokens.of(read.encoded, 0), gold


def loss_of(
    objective: dict[str, Any],
    student: Encoder,
    tokens: Tokens,
    teacher: Activations,
    gold: Tensor,
    share: float = 1.0,
) -> Tensor:
    """The loss of one objective where each row counts `share`, and tokens do not."""
    spec = {"caches": ["said"], "model": {"kind": "shape"}, "objectives": [objective]}
    terms = Terms(StudentSpec.model_validate(spec), student.dims, {"said": student.dims})
    said = student(tokens, terms.needs_of_student())
    shares = {"rows": share, "labels": share, "tokens": 0.0}
    loss, _ = terms(said, Batch(tokens, {"said": teacher}, gold), progress=0.0, share=shares)
    assert isinstance(loss, Tensor)
    return loss


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Encoder]:
    """Two random models with a span head."""
    root = tmp_path_factory.mktemp("readers")
    folders = [tiny_headed_folder(root / f"{seed}", "span", seed=seed) for seed in (1, 2)]
    student, teacher = (load_encoder(folder, HeadSpec()) for folder in folders)
    return student, teacher


def test_labels_of_windows() -> None:
    tokens, gold = in_windows()
    lengths = tokens.lengths.tolist()
    # The first token where a window does not have the answer, which nobody knows of question 3.
    assert lengths == [24, 24, 24, 12, 13, 24, 24, 24, 16, 24, 24, 24, 20]
    # [CLS] is it ? [SEP] stove . the dog waits, and only `dog` at the end of the window before.
    assert gold.tolist()[:5] == [[0, 0], [8, 9], [0, 0], [0, 0], [5, 5]]
    assert gold.tolist()[5:9] == [[-100, -100]] * 4
    assert gold.tolist()[9:] == [[0, 0]] * 4


def test_a_span_is_a_choice_among_all_tokens_of_its_window(
    readers: tuple[Encoder, Encoder],
) -> None:
    student, teacher = readers
    tokens, gold = in_windows()
    theirs = observe(teacher, tokens, frozenset({TOKEN_LOGITS}), "fp32")
    said = [
        model[TOKEN_LOGITS].split(tokens.lengths.tolist())
        for model in (observe(student, tokens, frozenset({TOKEN_LOGITS}), "fp32"), theirs)
    ]
    labels, soft = [], []
    for mine, other, places in zip(*said, gold, strict=True):
        for end in (0, 1):
            by_student, by_teacher = (x[:, end].double() for x in (mine, other))
            if places[end] >= 0:
                labels.append(float(functional.cross_entropy(by_student, places[end])))
            likely = (by_teacher / 2).softmax(0)
            ratio = likely.log() - (by_student / 2).log_softmax(0)
            soft.append(4 * float((likely * ratio).sum()))
    assert (len(labels), len(soft)) == (2 * 9, 2 * 13)
    found = loss_of({"kind": "labels"}, student, tokens, theirs, gold)
    assert found.item() == pytest.approx(np.mean(labels), rel=1e-5)
    found = loss_of({"kind": "logits", "temperature": 2.0}, student, tokens, theirs, gold)
    # The sum of both ends, each a mean over the windows.
    assert found.item() == pytest.approx(2 * np.mean(soft), rel=1e-5)


def test_every_window_counts_the_same_in_batches_of_any_size(
    readers: tuple[Encoder, Encoder],
) -> None:
    student, teacher = readers
    tokens, gold = in_windows()
    theirs = observe(teacher, tokens, frozenset({TOKEN_LOGITS}), "fp32")[TOKEN_LOGITS]
    objective = {"kind": "logits", "temperature": 2.0}
    whole = loss_of(
        objective, student, tokens, Activations(tokens.lengths, {TOKEN_LOGITS: theirs}), gold
    )
    parts = 0.0
    for rows in (torch.tensor([3]), torch.tensor([0, 1, 2, *range(4, 13)])):
        said = {TOKEN_LOGITS: theirs[tokens.places(rows)]}
        here = Activations(tokens.lengths[rows], said)
        share = len(rows) / 13
        parts += loss_of(objective, student, tokens.take(rows), here, gold[rows], share).item()
    assert parts == pytest.approx(whole.item(), rel=1e-5)


SPAN_OBJECTIVES: list[dict[str, Any]] = [
    *({"kind": "logits", "loss": x} for x in ("kl", "reverse_kl", "jensen_shannon", "ce", "mse")),
    {"kind": "logits", "temperature": {"kind": "flsw"}},
    {"kind": "logits", "temperature": {"kind": "cwsm"}},
    {"kind": "logits", "probability_shift": True},
    {"kind": "logits", "reduction": "sequence"},
    {"kind": "labels"},
]
ANIMALS = ("cat", "dog", "fox", "bird")
PIPELINE = """\
corpora:
  questions:
    sources: [{kind: squad, files: [train.jsonl], doc_stride: 4}]
    tokenizer: words
    max_seq_length: 32
    validation: 0.1
teachers:
  reader: {model: artifacts/students/reader}
caches:
  said:
    corpus: questions
    teacher: reader
    dtype: fp32
    targets: [{kind: logits, per: token}]
students:
  reader:
    corpus: questions
    model: {kind: shape, num_hidden_layers: 2, hidden_size: 32, num_attention_heads: 4,
            intermediate_size: 64, max_position_embeddings: 64}
    head: {kind: span}
    objectives: [{kind: labels}]
    train: {max_steps: 50, tokens_per_batch: 1024, learning_rate: 1e-2, bf16: false}
  small:
    caches: [said]
    model: {kind: shape, num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2,
            intermediate_size: 32, max_position_embeddings: 64}
    head: {kind: span}
    objectives:
      - {kind: logits, temperature: 2.0}
      - {kind: labels, weight: 0.5}
    train: {max_steps: 60, tokens_per_batch: 1024, learning_rate: 2e-2, bf16: false}
    evaluate: [{kind: question_answering, file: dev.jsonl, doc_stride: 4}]
"""


def animals(count: int, start: int) -> list[Question]:
    """Contexts of 3 to 7 sentences, one of which has the answer."""
    others = [text for text in SENTENCES if not any(word in text.lower() for word in ANIMALS)]
    made = []
    for number in range(start, start + count):
        animal = ANIMALS[number % 4]
        parts = [others[(number * 7 + step * 3) % len(others)] for step in range(number % 5 + 2)]
        parts.insert(number * 5 % len(parts) + number % 2, f"The {animal} waits.")
        context = " ".join(parts)
        answer = Answer(animal, context.index(f"{animal} waits"))
        made.append(Question(f"q{number}", "Who waits?", context, (answer,)))
    return made


def official(said: Mapping[str, str], questions: Sequence[Question]) -> tuple[float, float]:
    """Mean F1 and exact match, as shares."""

    def words(text: str) -> list[str]:
        bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", bare).split()

    f1 = exact = 0.0
    for question in questions:
        mine, gold = words(said[question.id]), words(question.answers[0].text)
        shared = sum((Counter(mine) & Counter(gold)).values())
        f1 += 2 * shared / (len(mine) + len(gold))
        exact += mine == gold
    return f1 / len(questions), exact / len(questions)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project from labels to a teacher, its cache, and a student that was measured."""
    root = tmp_path_factory.mktemp("chain")
    write_questions(root / "train.jsonl", animals(160, 0))
    write_questions(root / "dev.jsonl", animals(24, 160))
    (root / "p.yaml").write_text(PIPELINE)
    tiny_teacher_folder(root / "words")
    # In its own process the program does that before transformers is imported.
    disable_progress_bar()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("KDPIPE_DEVICE", "cpu")
        patch.setattr(fill_blocks, "SMALLEST", 500)
        patch.setattr(fill_blocks, "SPREAD", 1000)
        for words in (
            ["tokenize", "p.yaml"],
            ["train", "p.yaml", "reader"],
            ["cache-teacher", "p.yaml"],
            ["train", "p.yaml", "small"],
            ["evaluate", "p.yaml", "small"],
        ):
            assert cli.main(words) == 0
        yield root


def test_from_labels_to_a_teacher_to_a_student_to_answers(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "artifacts/students/small"
    bare = [one._replace(answers=()) for one in animals(24, 160)]
    write_questions(tmp_path / "bare.jsonl", bare)
    files = ("dev.jsonl", str(tmp_path / "bare.jsonl"))
    outputs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file, output in zip(files, outputs, strict=True):
        words = ["predict", model, file, str(output), "--doc-stride", "4"]
        assert cli.main(words) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    records = [json.loads(line) for line in outputs[0].read_text().splitlines()]
    assert {tuple(record) for record in records} == {("id", "answer", "score")}
    assert [record["id"] for record in records] == [one.id for one in bare]
    assert all(0.0 < record["score"] <= 1.0 for record in records)
    f1, exact = official({record["id"]: record["answer"] for record in records}, animals(24, 160))
    metrics = json.loads((chain / "reports/small/metrics.json").read_text())
    assert metrics["student"] == pytest.approx(
        {"question_answering.f1": f1, "question_answering.exact_match": exact}, abs=1e-4
    )
    assert metrics["teacher"]["question_answering.exact_match"] > 0.9
    assert metrics["untrained"]["question_answering.exact_match"] < 0.5 < 0.9 < exact
    capsys.readouterr()
    words = ["predict", model, "dev.jsonl", str(tmp_path / "c.jsonl")]
    assert cli.main(words) == UsageError.exit_code
    assert capsys.readouterr().err == (
        "kdpipe: error: doc_stride is 128, but windows of 32 tokens have room for 13 of the context"
        " beside a question: lower it, or raise max_seq_length\n"
    )


def test_transformers_answers_with_the_student_as_predict_does(chain: Path) -> None:
    folder = chain / "artifacts/students/small"
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == 32
    questions = animals(24, 160)
    found = answers_of(open_subject(folder, "cpu"), questions, doc_stride=4)
    for question, (text, probability) in zip(questions, found, strict=True):
        rows = tokenizer(
            question.question,
            question.context,
            truncation="only_second",
            max_length=32,
            stride=4,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_tensors="pt",
            padding=True,
        )
        kept = {key: rows[key] for key in ("input_ids", "attention_mask", "token_type_ids")}
        with torch.inference_mode():
            said = model(**kept)
        best = (-math.inf, "", 0.0)
        for row, mask in enumerate(rows["attention_mask"].bool()):
            start, end = said.start_logits[row][mask], said.end_logits[row][mask]
            sides, offsets = rows.sequence_ids(row), rows["offset_mapping"][row].tolist()
            inside = [place for place, side in enumerate(sides) if side == 1]
            for first in inside:
                for last in range(first, inside[-1] + 1):
                    score = float(start[first] + end[last])
                    chance = float(start.softmax(0)[first] * end.softmax(0)[last])
                    answer = question.context[offsets[first][0] : offsets[last][1]]
                    best = max(best, (score, answer, chance))
        assert text == best[1]
        assert probability == pytest.approx(best[2], rel=1e-4)


def test_a_span_loss_is_the_same_from_a_cache_and_live(
    chain: Path, readers: tuple[Encoder, Encoder]
) -> None:
    project = open_project(Path("p.yaml"))
    corpus = project.corpus("questions")
    assert len(corpus.facts.blocks) > 3
    cache = project.cache("said", corpus)
    rows = np.random.default_rng(1).permutation(corpus.facts.rows)[:23]
    encoded = corpus.gather(rows)
    tokens = Tokens.of(encoded, 0)
    assert len(tokens.lengths.unique()) > 3
    gold = Gold("span", ("start", "end")).of(corpus.labels(rows), encoded)
    assert 0 < int((gold > 0).all(1).sum()) < 23
    needs = frozenset({TOKEN_LOGITS})
    live = observe(project.teacher("reader").load(), tokens, needs, "fp32")
    cached = cache.read(rows, needs)
    student = readers[0]
    for objective in SPAN_OBJECTIVES:
        found = []
        for teacher in (live, cached):
            student.zero_grad()
            loss = loss_of(objective, student, tokens, teacher, gold)
            loss.backward()
            gradients = [p.grad.flatten() for p in student.parameters() if p.grad is not None]
            found.append((loss.detach(), torch.cat(gradients)))
        (loss_live, grad_live), (loss_cached, grad_cached) = found
        assert 1e-3 < loss_live < math.inf, objective
        assert torch.allclose(loss_live, loss_cached, rtol=1e-5), objective
        assert grad_live.norm() > 1e-4, objective
        assert (grad_live - grad_cached).norm() < 1e-4 * grad_live.norm(), objective
