"""The four commands one after the other, on a project of files, as a user runs them."""

from __future__ import annotations

import json
import shutil

import pytest

from kdpipe.cli import main
from tests.pieces import sentences, write_text
from tests.tiny import tiny_teacher_folder

PIPELINE = """
corpora:
  text:
    sources: [{kind: files, files: [text.txt]}]
    tokenizer: tiny
    max_seq_length: 32
    validation: 0.1
teachers:
  tiny: {model: teacher}
caches:
  said: {corpus: text, teacher: tiny, dtype: fp32, targets: [{kind: embedding}]}
students:
  small:
    caches: [said]
    model: {kind: teacher_layers, layers: [1, 4]}
    objectives: [{kind: embedding, loss: cosine}]
    train: {max_steps: 6, tokens_per_batch: 512}
  started:
    caches: [said]
    model: {kind: checkpoint, model: start}
    objectives: [{kind: embedding, loss: similarity}]
    train: {max_steps: 3, tokens_per_batch: 512}
"""
COMMANDS = ("tokenize", "cache-teacher", "train")


@pytest.fixture
def files(project):
    write_text(project / "text.txt", sentences(200))
    tiny_teacher_folder(project / "teacher", layers=4)
    tiny_teacher_folder(project / "start", layers=2, seed=3)
    (project / "p.yaml").write_text(PIPELINE)
    return project


def run(*words: str) -> None:
    assert main([*words]) == 0


def test_from_text_to_a_report(files, capsys):
    for command in (*COMMANDS, "evaluate"):
        run(command, "p.yaml")
    out = capsys.readouterr().out
    assert "artifacts/students/small" in out
    assert "reports/small/report.svg" in out
    metrics = json.loads((files / "reports/small/metrics.json").read_text())
    assert metrics["teacher"]["fidelity.cosine"] == pytest.approx(1.0, abs=1e-3)
    assert set(metrics) >= {"teacher", "untrained", "student", "share"}
    card = (files / "artifacts/students/small/README.md").read_text()
    assert "| small |" in card
    assert "absolute" not in card
    assert str(files) not in (files / "artifacts/students/small/kdpipe.json").read_text()


def test_every_command_again_finds_everything_up_to_date(files, capsys):
    for command in COMMANDS:
        run(command, "p.yaml")
    before = {path: path.stat().st_mtime_ns for path in files.rglob("artifacts/**/manifest.json")}
    capsys.readouterr()
    for command in COMMANDS:
        run(command, "p.yaml")
    told = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(told) == 4
    assert all(line.endswith(": up to date") for line in told)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_another_checkpoint_to_start_from_is_another_student(files, capsys):
    for command in COMMANDS:
        run(command, "p.yaml")
    shutil.rmtree(files / "start")
    tiny_teacher_folder(files / "start", layers=2, seed=4)
    capsys.readouterr()
    run("train", "p.yaml")
    told = capsys.readouterr().err
    assert "artifacts/students/small: up to date" in told
    assert "artifacts/students/started: best at step" in told


def test_renaming_a_source_to_another_format_is_a_change(files, capsys):
    run("tokenize", "p.yaml")
    (files / "text.txt").rename(files / "text.csv")
    pipeline = (files / "p.yaml").read_text().replace("text.txt", "text.csv")
    first = (files / "text.csv").read_text()
    (files / "text.csv").write_text("text\n" + first)
    (files / "p.yaml").write_text(pipeline)
    capsys.readouterr()
    run("tokenize", "p.yaml")
    assert "200 rows" in capsys.readouterr().err


def test_dry_run_says_what_is_to_do_and_why_and_does_nothing(files, capsys):
    run("tokenize", "p.yaml")
    run("cache-teacher", "p.yaml", "--dry-run")
    out = capsys.readouterr().out
    assert "embedding.fp16" in out
    assert "never asked" in out
    assert "bytes to write" in out
    assert not (files / ".kdpipe/store").exists()
    run("cache-teacher", "p.yaml")
    write_text(files / "text.txt", sentences(210))
    run("tokenize", "p.yaml")
    capsys.readouterr()
    run("cache-teacher", "p.yaml", "--dry-run")
    assert "new or changed rows" in capsys.readouterr().out
