"""A plan beside what then happens: bytes, rows, blocks and steps are the same; nothing is made.

What takes how long is measured here too, and never asserted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdpipe import sample, write_corpus
from kdpipe.cli import main
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.planning import Forecast, forecast
from kdpipe.project import open_project
from kdpipe.stages.plan_pipeline import plan
from kdpipe.tensor_files import header
from tests.pieces import sentences, write_text, write_yaml
from tests.runs import EMBEDDING
from tests.small import write
from tests.tiny import tiny_teacher_folder
from tests.two_tasks import CACHES, declare

CPU = torch.device("cpu")
ITEM = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "I32": 4, "U8": 1}
FILE = "p.yaml"
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
  said:
    corpus: text
    teacher: tiny
    targets: [{kind: embedding}, {kind: hidden, layers: [0, 4], storage: int8}]
students:
  small:
    caches: [said]
    model: {kind: teacher_layers, layers: [1, 4]}
    objectives:
      - {kind: embedding, loss: cosine}
      - {kind: hidden, layers: {2: 4}, cache: said}
    train: {num_train_epochs: 1.5, tokens_per_batch: 256, gradient_accumulation_steps: 2}
"""


@pytest.fixture
def here(project: Path) -> Path:
    write_text(project / "text.txt", sentences(200))
    tiny_teacher_folder(project / "teacher", layers=4)
    write_yaml(project / FILE, PIPELINE)
    return project


def told(seconds: float = 0.0) -> Forecast:
    return forecast(open_project(Path(FILE)), CPU, seconds)


def run(*commands: str) -> None:
    for command in commands:
        assert main([command, FILE]) == 0


def files(root: Path) -> dict[str, int]:
    """All but what is remembered of tokenizers, which is no part of anything."""
    every = (path for path in root.rglob("*") if ".kdpipe/tokenizers/" in path.as_posix())
    remembered = {*every, root / ".kdpipe", root / ".kdpipe/tokenizers", root}
    return {str(p): p.stat().st_mtime_ns for p in root.rglob("*") if p not in remembered}


def bytes_of_shards(root: Path, name: str) -> dict[str, int]:
    """Numbers in the shards of a cache, by question."""
    found: dict[str, int] = {}
    for path in (root / "artifacts/caches" / name).glob("*.safetensors"):
        question = path.stem.rpartition("-")[0]
        kinds = header(path, "").values()
        size = sum(ITEM[kind.dtype] * torch.Size(kind.shape).numel() for kind in kinds)
        found[question] = found.get(question, 0) + size
    return found


def manifest(root: Path, kind: str, name: str) -> Any:
    return json.loads((root / "artifacts" / kind / name / "manifest.json").read_text())


@pytest.mark.usefixtures("small_blocks")
def test_a_small_pipeline_is_told_to_the_byte_before_anything_is_made(here: Path) -> None:
    before = files(here)
    found = told()
    assert files(here) == before
    (text,), (cache,), (student,) = found.corpora, found.caches, found.students
    run("tokenize", "cache-teacher", "train")
    corpus = manifest(here, "corpora", "text")
    assert (text.rows, text.tokens) == (corpus["facts"]["rows"], corpus["facts"]["tokens"])
    assert text.bytes == sum(file["bytes"] for file in corpus["files"])
    blocks = len(corpus["files"])
    assert (cache.blocks, cache.of_blocks) == (blocks, blocks)
    assert blocks > 5
    assert cache.bytes == bytes_of_shards(here, "said")
    assert [*cache.bytes] == ["embedding.fp16", "hidden.0.int8", "hidden.4.int8"]
    assert student.steps == manifest(here, "students", "small")["facts"]["steps"]
    assert student.epochs == pytest.approx(1.5, rel=0.1)
    assert text.exact
    assert cache.exact
    assert student.exact
    assert found.bytes == text.bytes + sum(cache.bytes.values())
    for seconds in (text.seconds, cache.seconds, cache.load, student.step, student.measuring):
        assert seconds > 0
    assert [*student.in_loop] == [*student.reading] == ["said"]
    assert min(*student.in_loop.values(), *student.reading.values()) > 0


@pytest.mark.usefixtures("small_blocks")
def test_what_is_there_costs_nothing_and_what_changed_is_counted(here: Path) -> None:
    run("tokenize", "cache-teacher")
    before = files(here)
    found = told()
    assert files(here) == before
    assert found.corpora[0].seconds == 0.0
    assert (found.caches[0].blocks, found.caches[0].whole_seconds) == (0, 0.0)
    assert {*found.caches[0].bytes.values()} == {0}
    assert (found.bytes, found.seconds["cache-teacher"]) == (0, 0.0)
    assert found.students[0].in_loop["said"] > 0
    shards = {path.name: path for path in (here / "artifacts/caches/said").glob("*.safetensors")}
    write_text(here / "text.txt", sentences(203))
    run("tokenize")
    (cache,) = told().caches
    run("cache-teacher")
    new = {path.name for path in (here / "artifacts/caches/said").glob("*.safetensors")}
    new -= {*shards}
    assert 0 < cache.blocks < cache.of_blocks
    assert 3 * cache.blocks == len(new)
    # Rows that are gone leave new blocks, in which the teacher has nothing to read.
    write_text(here / "text.txt", [*sentences(203)[:90], *sentences(203)[95:]])
    (cache,) = told().caches
    assert cache.blocks > 0
    assert cache.seconds == 0.0


def test_of_a_large_text_a_sample_tells_the_rest(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(here / "text.txt", sentences(800))
    monkeypatch.setattr(write_corpus, "CHUNK", 100)
    monkeypatch.setattr(sample, "MOST", 400)
    found = told()
    (text,), (cache,), (student,) = found.corpora, found.caches, found.students
    assert not any(one.exact for one in (text, cache, student))
    capsys.readouterr()
    plan(Path(FILE), device="cpu", seconds=0.0)
    assert "~" in capsys.readouterr().out
    run("tokenize", "cache-teacher", "train")
    facts = manifest(here, "corpora", "text")["facts"]
    assert text.rows == facts["rows"] == 800
    assert text.tokens == pytest.approx(facts["tokens"], rel=0.15)
    for question, size in bytes_of_shards(here, "said").items():
        assert cache.bytes[question] == pytest.approx(size, rel=0.15)
    steps = manifest(here, "students", "small")["facts"]["steps"]
    assert student.steps == pytest.approx(steps, rel=0.2)


def test_the_page_says_what_pays(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(Path(FILE), device="cpu", seconds=0.0)
    lines = capsys.readouterr().out.splitlines()
    tokens = told().corpora[0].tokens
    assert any(line.split()[:3] == ["text", "200", f"{tokens:,}"] for line in lines)
    assert any("hidden.4.int8" in line for line in lines)
    (verdict,) = [line for line in lines if line.startswith("cache said: ")]
    assert "pays after" in verdict or "do not cache" in verdict
    assert lines[-2].startswith("tokenize 0:0")
    assert lines[-2].endswith(" in all on cpu")
    assert " to write, " in lines[-1]


def test_students_that_share_a_body_share_its_steps(two_tasks: Path) -> None:
    declare(two_tasks)
    found = told()
    assert [cache.blocks for cache in found.caches if cache.name in CACHES] == [0] * len(CACHES)
    steps = {student.name: student.steps for student in found.students}
    assert [*steps] == ["opinion", "things"]
    assert sum(steps.values()) == pytest.approx(12)
    # By size: 64 reviews and 56 sentences, without those held out.
    rows = {name: manifest(two_tasks, "corpora", name)["facts"] for name in ("reviews", "tags")}
    trained = [facts["rows"] - facts["held_out"] for facts in rows.values()]
    assert steps["opinion"] / steps["things"] == pytest.approx(trained[0] / trained[1])


def test_a_student_of_another_tokenizer_is_tried_on_rows_of_both(project: Path) -> None:
    student = {
        "caches": ["said"],
        "corpus": "words",
        "model": {"kind": "recurrent", "word_width": 16, "hidden_size": 12},
        "objectives": [EMBEDDING],
        "train": {"max_steps": 40, "tokens_per_batch": 256, "bf16": False},
    }
    source = {"kind": "files", "files": ["text.txt"]}
    words = {"sources": [source], "tokenizer": {"kind": "words"}}
    write(project, {"by-words": student}, corpora={"words": words})
    found = told()
    by_name = {one.name: one for one in found.students}
    assert by_name["by-words"].steps == 40
    assert [*by_name["by-words"].in_loop] == ["said"]


def test_labels_alone_need_no_teacher(project: Path) -> None:
    student = {
        "corpus": "reviews",
        "head": {"kind": "sequence"},
        "model": {"kind": "checkpoint", "model": "teacher"},
    }
    write(project, {"s": student})
    found = told()
    assert found.students[0].in_loop == {}
    assert found.students[0].with_teachers == found.students[0].seconds


def test_a_cache_of_files_is_counted_and_its_students_wait_for_it(here: Path) -> None:
    np.save(here / "v.npy", np.ones((200, 24), np.float32))
    files = "files: [{file: v.npy, part: embedding}]"
    text = PIPELINE.replace("    teacher: tiny\n    targets: [", f"    {files}\n    # [")
    text = text.replace("kind: teacher_layers, layers: [1, 4]", "kind: checkpoint, model: teacher")
    text = text.replace("      - {kind: hidden, layers: {2: 4}, cache: said}\n", "")
    write_yaml(here / FILE, text)
    found = told()
    assert found.unknown == {"small": "run 'kdpipe cache-teacher p.yaml said' first"}
    run("tokenize", "cache-teacher")
    assert found.caches[0].bytes == bytes_of_shards(here, "said")
    assert (found.caches[0].teacher, found.caches[0].whole_seconds) == (False, 0.0)
    later = told()
    assert later.unknown == {}
    assert later.students[0].in_loop == {}


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_modules_of_a_teacher_that_computes_in_few_bits_have_their_width(
    here: Path, dtype: str
) -> None:
    wide = "{kind: modules, names: [encoder.layer.1.intermediate]}"
    text = PIPELINE.replace("{kind: embedding}, ", f"{{kind: embedding}}, {wide}, ")
    write_yaml(
        here / FILE, text.replace("    teacher: tiny\n", f"    teacher: tiny\n    dtype: {dtype}\n")
    )
    (cache,) = told().caches
    run("tokenize", "cache-teacher")
    assert cache.bytes == bytes_of_shards(here, "said")
    write_text(here / "text.txt", sentences(220))
    run("tokenize")
    assert main(["cache-teacher", FILE, "--dry-run"]) == 0


def test_a_student_that_cannot_be_is_named(here: Path) -> None:
    write_yaml(here / FILE, PIPELINE.replace("layers: [1, 4]}", "layers: [1, 9]}"))
    with pytest.raises(UsageError, match=r"^student small: "):
        told()
    (here / "text.txt").unlink()
    with pytest.raises(ArtifactError, match=r"text\.txt"):
        told()
