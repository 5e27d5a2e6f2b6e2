"""Beside whom a student is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdpipe import job, write_student
from kdpipe.subjects import held_out, subjects
from tests.pieces import make_cache, make_corpus, new_project, sentences
from tests.tiny import tiny_headed_folder

CLASSES = ("no", "perhaps", "yes")
HEAD = {"kind": "sequence", "classes": CLASSES}
SETTINGS = {"max_steps": 1, "tokens_per_batch": 256, "bf16": False}
LOGITS = {"kind": "logits", "cache": "answers"}


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ({"head": HEAD, "objectives": [LOGITS]}, "headed"),
        ({"objectives": [{"kind": "embedding", "cache": "said"}]}, "tiny"),
    ],
    ids=["answers", "embeddings"],
)
@pytest.mark.parametrize("order", [["said", "answers"], ["answers", "said"]], ids="-".join)
def test_of_several_teachers_the_one_who_answers_the_same(
    project: Path, student: dict[str, Any], teacher: str, order: list[str]
) -> None:
    tiny_headed_folder(project / "headed", "sequence", CLASSES)
    target = {"kind": "logits"}
    answers = {"corpus": "text", "teacher": "headed", "dtype": "fp32", "targets": [target]}
    shape = {"kind": "shape", "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 32}
    shape |= {"num_attention_heads": 2}
    place = new_project(
        project,
        sentences(40),
        teachers={"headed": {"model": "headed"}},
        caches={"answers": answers},
        students={"s": {"caches": order, "model": shape, "train": SETTINGS, **student}},
    )
    made = make_corpus(place)
    for name in order:
        make_cache(place, made, name)
    corpus, caches = place.inputs("s")
    work = job.prepare(place, "s", corpus, caches, "cpu")
    job.carry_out(work, project / "runs")
    write_student.write_student(place, "s", work, {})
    found, cache = subjects(place, "s", corpus, caches, "cpu")
    assert [one.name for one in found] == [teacher, "s, untrained", "s"]
    rows = held_out(corpus, cache)
    assert (rows.logits is not None) == (teacher == "headed")
