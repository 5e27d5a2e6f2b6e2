"""From labels to a teacher, to its cache, to a distilled student, to a report: real commands."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.logging import disable_progress_bar

from kdpipe import dvc
from kdpipe.pipeline import load_pipeline
from tests.ends import FILE, Capture, command, edit, fails
from tests.pieces import sentences
from tests.tiny import tiny_teacher_folder

PIPELINE = """\
corpora:
  text:
    sources: [{source}]
    tokenizer: base
    max_seq_length: 32
    validation: 0.2
teachers:
  base: {{model: base}}
  tuned: {{model: artifacts/students/teacher}}
caches:
  said:
    corpus: text
    teacher: tuned
    dtype: fp32
    targets: [{{kind: logits, per: {per}}}, {{kind: hidden, layers: [2], storage: fp32}}]
students:
  teacher:
    corpus: text
    model: {{kind: checkpoint, model: base}}
    head: {{kind: {head}}}
    objectives: [{{kind: labels}}]
    train: {{max_steps: 60, tokens_per_batch: 512, learning_rate: 3e-3, bf16: false}}
    evaluate: [{task}]
  small:
    caches: [said]
    model: {{kind: teacher_layers, layers: [1]}}
    head: {{kind: {head}}}
    objectives:
      - {{kind: logits, temperature: 2.0}}
      - {{kind: labels, weight: 0.5}}
      - {{kind: hidden, layers: {{1: 2}}, learning_rate: 1e-2}}
    train: {{max_steps: 30, tokens_per_batch: 512, learning_rate: 3e-3, bf16: false}}
    evaluate: [{task}{more}]
"""


def about(text: str) -> str:
    """What a text is about: plain enough to be learned."""
    return "weather" if any(word in text for word in ("snow", "rain", "moon")) else "other"


def classification() -> dict[str, str]:
    lines = [f"{text}\t{about(text.lower())}\n" for text in sentences(160)]
    Path("train.tsv").write_text("".join(["text\tlabel\n", *lines[:120]]))
    Path("test.tsv").write_text("".join(["text\tlabel\n", *lines[120:]]))
    source = "{kind: files, files: [train.tsv], label_column: label}"
    task = "{kind: classification, file: test.tsv, name: about}"
    return {"source": source, "task": task, "more": ", {kind: agreement}", "head": "sequence"}


def tagging() -> dict[str, str]:
    def tagged(text: str) -> str:
        words = text.rstrip(".").split()
        tags = ["B-ARTICLE" if word.lower() in {"the", "a"} else "O" for word in words]
        return "".join(f"{word} {tag}\n" for word, tag in zip(words, tags, strict=True))

    parts = [tagged(text) for text in sentences(160)]
    Path("train.conll").write_text("\n".join(parts[:120]))
    Path("test.conll").write_text("\n".join(parts[120:]))
    source = "{kind: conll, files: [train.conll]}"
    task = "{kind: tagging, file: test.conll}"
    return {"source": source, "task": task, "more": "", "head": "token"}


def answering() -> dict[str, str]:
    def squad(texts: list[str]) -> str:
        paragraphs = []
        for number, text in enumerate(texts):
            answer = {"text": text.split()[1], "answer_start": len(text.split()[0]) + 1}
            question = {"id": str(number), "question": "Which word?", "answers": [answer]}
            paragraphs.append({"context": text, "qas": [question]})
        return json.dumps({"version": "1.1", "data": [{"title": "", "paragraphs": paragraphs}]})

    texts = sentences(160)
    Path("train.json").write_text(squad(texts[:120]))
    Path("test.json").write_text(squad(texts[120:]))
    source = "{kind: squad, files: [train.json], doc_stride: 4}"
    task = "{kind: question_answering, file: test.json, doc_stride: 4}"
    return {"source": source, "task": task, "more": "", "head": "span"}


KINDS = {
    "sequence": (classification, "about.accuracy", "test.tsv"),
    "token": (tagging, "tagging.f1", "test.conll"),
    "span": (answering, "question_answering.f1", "test.json"),
}


@pytest.fixture(autouse=True)
def _in_a_project(project: Path) -> Iterator[None]:
    """A folder with a model to start from, and a process that is left as it was."""
    disable_progress_bar()
    environment, hook = dict(os.environ), sys.excepthook
    handler = signal.getsignal(signal.SIGTERM)
    os.environ["KDPIPE_DEVICE"] = "cpu"
    tiny_teacher_folder(project / "base")
    yield
    os.environ.clear()
    os.environ.update(environment)
    sys.excepthook = hook
    signal.signal(signal.SIGTERM, handler)


def write_pipeline(kind: str) -> str:
    """The files of a kind of task; the metric that stands for it."""
    make, metric, _ = KINDS[kind]
    per = "row" if kind == "sequence" else "token"
    FILE.write_text(PIPELINE.format(per=per, **make()))
    return metric


def table(student: str) -> list[dict[str, str]]:
    with Path(f"reports/{student}/table.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def story(student: str) -> Any:
    return json.loads(Path(f"artifacts/students/{student}/kdpipe.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_labels_make_a_teacher_and_the_teacher_a_student(kind: str, capsys: Capture) -> None:
    metric = write_pipeline(kind)
    command(["tokenize", str(FILE)])
    for stage, name in (("train", "teacher"), ("cache-teacher", "said"), ("train", "small")):
        command([stage, str(FILE), name])
    capsys.readouterr()
    command(["evaluate", str(FILE)])
    assert "reports/teacher/report.svg" in capsys.readouterr().out

    own, both = table("teacher"), table("small")
    assert [(row["role"], row["model"]) for row in own] == [
        ("untrained", "teacher, untrained"),
        ("student", "teacher"),
    ]
    assert [(row["role"], row["model"]) for row in both] == [
        ("teacher", "tuned"),
        ("untrained", "small, untrained"),
        ("student", "small"),
    ]
    # Labels were learned, the student learned from them too, and its teacher is what was trained.
    before, after = (float(row[metric]) for row in own)
    assert after > max(before, 0.5)
    assert both[0][metric] == own[1][metric]
    assert float(both[2][metric]) > 0.5
    assert {row["share_of_teacher"] for row in own} == {""}
    assert both[0]["share_of_teacher"] == "1.0000"
    if kind == "sequence":
        assert both[0]["agreement"] == "1.0000"

    assert story("teacher")["teacher"] is None
    assert story("small")["teacher"]["model"] == "teacher"
    assert story("small")["shape"]["classes"] == story("teacher")["shape"]["classes"]
    card = Path("artifacts/students/teacher/README.md").read_text()
    assert "It learned this from labels, with kdpipe" in card
    assert f"| teacher | {own[1][metric]} |" in card

    for stage in ("tokenize", "cache-teacher", "train"):
        command([stage, str(FILE)])
    assert capsys.readouterr().err.count("up to date") == 4


def test_the_student_answers_new_text() -> None:
    write_pipeline("sequence")
    edit("max_steps: 60", "max_steps: 2")
    command(["tokenize", str(FILE)])
    command(["train", str(FILE), "teacher"])
    Path("new.txt").write_text("Deep snow.\nA cat.\n")
    command(["predict", "artifacts/students/teacher", "new.txt", "said.jsonl"])
    said = [json.loads(line) for line in Path("said.jsonl").read_text().splitlines()]
    assert [one["label"] in {"weather", "other"} for one in said] == [True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_stages_follow_from_each_other(kind: str) -> None:
    write_pipeline(kind)
    stages = dvc.stages(load_pipeline(FILE), FILE, Path())
    corpus = "artifacts/corpora/text/manifest.json"
    teacher = "artifacts/students/teacher/manifest.json"
    cache = "artifacts/caches/said/manifest.json"
    small = "artifacts/students/small/manifest.json"
    data, test = KINDS[kind][2].replace("test", "train"), KINDS[kind][2]
    assert {name: stage["deps"] for name, stage in stages.items()} == {
        "tokenize-text": ["base", data],
        "cache-teacher-said": [corpus, teacher],
        "train-teacher": [corpus, "base"],
        "train-small": [cache, corpus, teacher, "base"],
        "evaluate-teacher": [corpus, teacher, test],
        "evaluate-small": [cache, corpus, small, test],
    }
    (params,) = stages["train-small"]["params"]
    assert params == {str(FILE): ["students.small", "teachers.tuned", "teachers.base"]}
    assert stages["train-teacher"]["params"] == [{str(FILE): ["students.teacher", "teachers.base"]}]
    order = _order(stages)
    assert order.index("train-teacher") < order.index("cache-teacher-said")
    assert order.index("cache-teacher-said") < order.index("train-small")


def test_a_student_that_nothing_measures_has_no_report(capsys: Capture) -> None:
    write_pipeline("sequence")
    edit("max_steps: 60", "max_steps: 2")
    text = FILE.read_text()
    task = "evaluate: [{kind: classification, file: test.tsv, name: about}]"
    assert text.count(task) == 1
    FILE.write_text(text.replace(task, "").partition("  small:")[0])
    stages = dvc.stages(load_pipeline(FILE), FILE, Path())
    assert [*stages] == ["tokenize-text", "cache-teacher-said", "train-teacher"]
    command(["tokenize", str(FILE)])
    command(["train", str(FILE), "teacher"])
    capsys.readouterr()
    command(["evaluate", str(FILE)])
    assert capsys.readouterr().out == ""
    assert not Path("reports").exists()
    assert fails(capsys, ["evaluate", str(FILE), "teacher"], 2) == (
        "there is no task to measure by: add one to 'evaluate', such as {kind: fidelity}, or"
        " {kind: classification} for a head"
    )


def _order(stages: dict[str, Any]) -> list[str]:
    """The stages in an order in which each finds what it needs."""
    outs = {name: [path for out in stage["outs"] for path in out] for name, stage in stages.items()}
    made_by = {path: name for name, paths in outs.items() for path in paths}
    order: list[str] = []
    while len(order) < len(stages):
        ready = [
            name
            for name, stage in stages.items()
            if name not in order
            and all(made_by.get(path, name) in [*order, name] for path in stage["deps"])
        ]
        assert ready, "stages wait for each other"
        order += ready
    return order


def test_a_teacher_that_is_not_trained_yet(capsys: Capture) -> None:
    write_pipeline("sequence")
    command(["tokenize", str(FILE)])
    capsys.readouterr()
    assert fails(capsys, ["cache-teacher", str(FILE)], 3) == (
        "artifacts/students/teacher is not made yet: run 'kdpipe train' for 'teacher'"
    )


def test_a_task_about_another_head(capsys: Capture) -> None:
    write_pipeline("token")
    edit("max_steps: 60", "max_steps: 2")
    Path("test.tsv").write_text("text\tlabel\nA cat.\tO\n")
    edit("[{kind: tagging, file: test.conll}]", "[{kind: classification, file: test.tsv}]")
    command(["tokenize", str(FILE)])
    command(["train", str(FILE), "teacher"])
    capsys.readouterr()
    assert fails(capsys, ["evaluate", str(FILE), "teacher"], 2) == (
        "teacher has no classification.accuracy: the task is about another head than the student's:"
        " take it out of 'evaluate'"
    )


@pytest.mark.parametrize(
    ("kind", "head", "begin", "end"),
    [
        ("sequence", "token", "the labels are of whole texts, the head", "head of kind: sequence"),
        ("token", "span", "label ['", "head of kind: span needs: use a source of kind: squad"),
        ("sequence", "span", "label '", "label_separator of the source, or the right label_column"),
        ("span", "sequence", "the head of the student needs classes, the corpus", "of the head"),
    ],
)  # fmt: skip
def test_labels_for_another_head(
    kind: str, head: str, begin: str, end: str, capsys: Capture
) -> None:
    write_pipeline(kind)
    text = FILE.read_text()
    FILE.write_text(text.replace(f"head: {{kind: {kind}}}", f"head: {{kind: {head}}}"))
    command(["tokenize", str(FILE)])
    capsys.readouterr()
    found = fails(capsys, ["train", str(FILE), "teacher"], 2 if kind == "span" else 3)
    assert found.startswith(begin)
    assert found.endswith(end)
