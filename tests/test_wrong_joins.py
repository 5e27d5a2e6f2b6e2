"""Targets of something else, or of other rows, are refused before the first step, and told why."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from kdpipe import artifact, records, versions
from kdpipe.cache import Cache
from kdpipe.errors import ArtifactError
from kdpipe.project import Project, open_project
from tests.conftest import Figure
from tests.ends import Capture, command, fails
from tests.pieces import sentences, write_text
from tests.tiny import tiny_teacher_folder

FILE = Path("pipeline.yaml")
SAID = Path("artifacts/caches/said")
CHANGED = "was made before the pipeline file or its inputs changed"


def say(where: str, value: object) -> None:
    """Change one key of the pipeline file."""
    pipeline = json.loads(FILE.read_text())
    *folders, key = [int(word) if word.isdecimal() else word for word in where.split(".")]
    place = pipeline
    for name in folders:
        place = place[name]
    assert place[key] != value
    place[key] = value
    FILE.write_text(json.dumps(pipeline))


@pytest.mark.parametrize(
    ("where", "value", "folder", "difference", "remedy"),
    [
        ("corpora.text.max_seq_length", 16, "corpora/text", "32 when it was made, 16", "tokenize"),
        ("corpora.text.prompt", "query: ", "corpora/text", 'null when it was made, "query: "', ""),
        ("corpora.text.validation", 0.2, "corpora/text", "0.1 when it was made, 0.2", "tokenize"),
        ("corpora.text.seed", 1, "corpora/text", "0 when it was made, 1", "tokenize"),
        ("caches.said.dtype", "bf16", "caches/said", '"fp32" when it was made, "bf16"', ""),
        ("caches.said.targets.0.storage", "int8", "caches/said", '"fp32" when it was made', ""),
        ("caches.said.targets.1.layers.0", 2, "caches/said", "1 when it was made, 2", ""),
        ("caches.said.teacher", "judge", "caches/said", '"tiny" when it was made, "judge"', ""),
    ],
)
def test_what_another_section_made(
    finished: Project,
    capsys: Capture,
    where: str,
    value: object,
    folder: str,
    difference: str,
    remedy: str,
) -> None:
    say(where, value)
    field = where.split(".", 2)[2]
    stage = "tokenize" if folder.startswith("corpora") else "cache-teacher"
    for words in ("train", "evaluate"):
        line = fails(capsys, [words, str(FILE), "s"], 3)
        assert line.startswith(f"artifacts/{folder} {CHANGED} ({field}: {difference}"), line
        assert line.endswith(f": run 'kdpipe {stage} {FILE} {folder.partition('/')[2]}'")
    assert not Path(".kdpipe/runs").is_dir() or not [*Path(".kdpipe/runs").iterdir()]


def test_another_teacher_in_the_same_folder(finished: Project, capsys: Capture) -> None:
    shutil.rmtree("teacher")
    tiny_teacher_folder(Path("teacher"), layers=4, seed=9)
    capsys.readouterr()
    line = fails(capsys, ["train", str(FILE)], 3)
    assert re.fullmatch(
        rf"artifacts/caches/said {CHANGED} \(teacher: \"\w{{64}}\" when it was made, \"\w{{64}}\""
        rf" now\): run 'kdpipe cache-teacher {FILE} said'",
        line,
    ), line


def test_another_tokenizer(finished: Project, capsys: Capture) -> None:
    path = Path("teacher/tokenizer.json")
    path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))
    shutil.rmtree("artifacts/students")
    line = fails(capsys, ["train", str(FILE)], 3)
    assert line == (
        "artifacts/corpora/text was read by another tokenizer than its sources or its model give"
        f" now: run 'kdpipe tokenize {FILE}'"
    )
    command(["tokenize", str(FILE)])
    capsys.readouterr()
    line = fails(capsys, ["train", str(FILE)], 3)
    assert "was made for another corpus" in line
    assert re.search(r"tokenizer: \w{12} in the cache, \w{12} in the corpus", line), line


@pytest.mark.parametrize(
    ("where", "value", "fields"),
    [
        ("corpora.text.max_seq_length", 16, "corpus"),
        ("corpora.text.prompt", "the mill ", "corpus"),
        ("corpora.text.validation", 0.2, "corpus"),
        ("corpora.text.max_rows", 50, "corpus, rows"),
        ("text.txt", sentences(61), "corpus, rows"),
        ("text.txt", sentences(60)[::-1], "corpus"),
    ],
)
def test_targets_of_the_corpus_before(
    finished: Project, capsys: Capture, where: str, value: Any, fields: str
) -> None:
    if where == "text.txt":
        write_text(Path(where), value)
    else:
        say(where, value)
    command(["tokenize", str(FILE)])
    capsys.readouterr()
    line = fails(capsys, ["train", str(FILE)], 3)
    assert line.startswith(f"{SAID} was made for another corpus than artifacts/corpora/text ("), (
        line
    )
    named = re.findall(r"(\w+): \S+ in the cache", line)
    assert named[: len(fields.split(", "))] == fields.split(", "), line
    assert line.endswith(f": run 'kdpipe cache-teacher {FILE} said'")


@pytest.mark.parametrize(
    ("stage", "name", "folder"),
    [("TOKENIZE", "text", "corpora/text"), ("CACHE_TEACHER", "said", "caches/said")],
)
def test_another_version_of_the_stage(
    finished: Project,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    name: str,
    folder: str,
) -> None:
    was = getattr(versions, stage)
    monkeypatch.setattr(versions, stage, was + 1)
    line = fails(capsys, ["train", str(FILE)], 3)
    assert line == (
        f'artifacts/{folder} {CHANGED} (meaning: "{was}" when it was made, "{was + 1}" now): run'
        f" 'kdpipe {stage.lower().replace('_', '-')} {FILE} {name}'"
    )


@pytest.mark.parametrize(
    ("where", "value", "difference"),
    [
        ("students.s.train.seed", 5, "train.seed: 42 when it was made, 5 now"),
        ("students.s.objectives.0.weight", 3.0, "objectives.0.weight: 1.0 when it was made, 3.0"),
        ("students.s.model.layers", [2, 3], "model.layers.0: 1 when it was made, 2 now"),
    ],
)
def test_a_student_that_was_trained_otherwise(
    finished: Project, capsys: Capture, where: str, value: object, difference: str
) -> None:
    say(where, value)
    line = fails(capsys, ["evaluate", str(FILE), "s"], 3)
    assert line.startswith(f"artifacts/students/s {CHANGED} ({difference}"), line
    assert line.endswith(f": run 'kdpipe train {FILE} s'")


def test_a_student_of_other_targets(finished: Project, capsys: Capture) -> None:
    say("caches.said.targets.0.storage", "fp16")
    command(["cache-teacher", str(FILE), "said"])
    capsys.readouterr()
    line = fails(capsys, ["evaluate", str(FILE), "s"], 3)
    digests = r'"\w{64}" when it was made, "\w{64}" now'
    assert re.fullmatch(
        rf"artifacts/students/s {CHANGED} \(cache\.said: {digests}\): run 'kdpipe train {FILE} s'",
        line,
    ), line


Files = list[dict[str, Any]]


def permuted(files: Files, dice: random.Random) -> Files:
    return dice.sample(files, len(files))


def shifted(files: Files, dice: random.Random) -> Files:
    by = dice.randrange(1, len(files))
    return files[by:] + files[:by]


def doubled(files: Files, dice: random.Random) -> Files:
    one, other = dice.sample(range(len(files)), 2)
    return [*files[:one], files[other], *files[one + 1 :]]


def dropped(files: Files, dice: random.Random) -> Files:
    one = dice.randrange(len(files))
    return [*files[:one], *files[one + 1 :]]


def renamed(files: Files, dice: random.Random) -> Files:
    """Two answers under each other's names."""
    one, other = dice.sample(range(len(files)), 2)
    found = [dict(file) for file in files]
    found[one]["name"], found[other]["name"] = files[other]["name"], files[one]["name"]
    return found


def read_all(cache: Cache) -> None:
    cache.read(np.arange(cache.facts.rows), cache.provides)


def test_a_manifest_whose_files_are_in_other_places(
    finished: Project, figure: Figure, long: bool
) -> None:
    changes: tuple[Callable[[Files, random.Random], Files], ...]
    changes = (permuted, shifted, doubled, dropped, renamed)
    path, tried = SAID / artifact.MANIFEST, 0
    project = open_project(FILE)
    corpus = project.corpus("text")
    manifest = records.read_sealed(path)
    for change, seed in itertools.product(changes, range(60 if long else 6)):
        files = change(manifest["files"], random.Random(f"{change.__name__} {seed}"))
        if files == manifest["files"]:
            continue
        path.write_bytes(records.seal(json.dumps(manifest | {"files": files}).encode()))
        # Names that are exchanged are found when their content is looked at.
        with pytest.raises(ArtifactError, match=r"belongs, the answer|another corpus|damaged|cut"):
            read_all(project.cache("said", corpus))
        tried += 1
    figure(f"{tried:,} caches with permuted, shifted, doubled or dropped answers: all refused")


ROWS, WIDTH = 60, 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("permuted", None),
        ("shifted", r"names row 60, artifacts/corpora/text has rows 0 to 59"),
        ("doubled", r"names row \d+ twice"),
        ("dropped", r"has nothing for 1 of 60 rows"),
        ("short", r"has \d+ vectors, but 'rows' is int64 of the shape \[60\]"),
        ("floats", r"but 'rows' is float32 of the shape"),
    ],
)
def test_imported_targets_by_row_number(
    finished: Project, capsys: Capture, figure: Figure, long: bool, change: str, message: str | None
) -> None:
    trials = 30 if long else 2
    pipeline = json.loads(FILE.read_text())
    files = [{"part": "embedding", "file": "v.safetensors", "storage": "fp32"}]
    pipeline["caches"] = {"mine": {"corpus": "text", "files": files}}
    pipeline["students"] = {}
    FILE.write_text(json.dumps(pipeline))
    vectors = np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH)
    for seed in range(trials):
        dice = random.Random(f"{change} {seed}")
        order = np.array(dice.sample(range(ROWS), ROWS))
        rows, values = order.copy(), vectors[order]
        one, other = dice.sample(range(ROWS), 2)
        if change == "shifted":
            rows += 1
        elif change == "doubled":
            rows[one] = rows[other]
        elif change == "dropped":
            rows, values = np.delete(rows, one), np.delete(values, one, 0)
        elif change == "short":
            values = np.delete(values, one, 0)
        elif change == "floats":
            rows = rows.astype(np.float32)
        save_file({"values": values, "rows": rows}, "v.safetensors")
        words = ["cache-teacher", str(FILE), "mine"]
        if message is None:
            command(words)
            project = open_project(FILE)
            cache = project.cache("mine", project.corpus("text"))
            read = cache.read(np.arange(ROWS), cache.provides)
            (found,) = read.values.values()
            assert np.array_equal(found.numpy(), vectors)
        else:
            assert re.search(message, fails(capsys, words, 3)), seed
            assert not Path("artifacts/caches/mine/manifest.json").exists()
    figure(f"{trials} imports with rows {change}: {'all right' if message is None else 'refused'}")
