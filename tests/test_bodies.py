"""Bodies that students share: from the pipeline file to a folder for each of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from kdpipe import cli, dvc, job
from kdpipe.errors import UsageError
from kdpipe.pipeline import load_pipeline
from kdpipe.project import open_project
from tests.small import run
from tests.two_tasks import (
    BODY,
    SETTINGS,
    SHARED,
    STUDENTS,
    declare,
    jobs_of,
    same,
    weights,
)


def test_from_caches_to_two_folders_to_answers(
    two_tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("train", "p.yaml", "both")
    folders = {name: two_tasks / "artifacts/students" / name for name in STUDENTS}
    kinds = (AutoModelForSequenceClassification, AutoModelForTokenClassification)
    bodies = []
    for folder, kind in zip(folders.values(), kinds, strict=True):
        model = kind.from_pretrained(folder)
        bodies.append(
            {k: v for k, v in model.bert.state_dict().items() if not k.startswith("pooler")}
        )
        assert json.loads((folder / "manifest.json").read_text())["inputs"]["body"]
    assert same(*bodies)
    columns = (folders["things"] / "steps.tsv").read_text().splitlines()[0].split("\t")
    assert {"loss", "opinion.0-logits", "things.1-hidden", "things.eval_loss"} < {*columns}
    assert (folders["things"] / "projections.safetensors").is_file()
    assert not (folders["opinion"] / "projections.safetensors").exists()
    card = (folders["opinion"] / "README.md").read_text()
    assert "- Same transformer, trained in turn: things\n" in card
    assert "- Start: teacher_layers (layers [1, 2]" in card

    capsys.readouterr()
    run("evaluate", "p.yaml", "both")
    out = capsys.readouterr().out
    assert "artifacts/students/opinion" in out
    assert "artifacts/students/things" in out
    for name, metric in (("opinion", "classification.accuracy"), ("things", "tagging.f1")):
        metrics = json.loads((two_tasks / "reports" / name / "metrics.json").read_text())
        assert metrics["student"].keys() >= {metric}, metrics["student"]
    (two_tasks / "my.txt").write_text("The cat is fresh.\n")
    for name, folder in folders.items():
        run("predict", str(folder.relative_to(two_tasks)), "my.txt", f"{name}.jsonl")
    assert json.loads((two_tasks / "opinion.jsonl").read_text())["label"] in {"bad", "good"}
    assert len(json.loads((two_tasks / "things.jsonl").read_text())["tags"]) == 4


def test_best_and_last_weights_are_those_of_one_body(two_tasks: Path) -> None:
    rising = SETTINGS | {"learning_rate": 0.5, "lr_scheduler_type": "constant", "eval_steps": 1}
    jobs = jobs_of(declare(two_tasks, body=BODY | {"train": rising}))
    job.carry_out_together(jobs, two_tasks / "runs")
    progress, ended = jobs.group.progress, weights(jobs)
    assert progress.best_step < progress.step
    run("train", "p.yaml", "things")
    for name in STUDENTS:
        folder = two_tasks / "artifacts/students" / name
        for place, wanted in (("", jobs.group.best), ("last/", ended)):
            found = load_file(folder / f"{place}model.safetensors")
            prefix = f"{name}.student.model."
            for key, value in found.items():
                assert torch.equal(value, wanted[prefix + key]), (name, place, key)


def test_saves_that_are_kept_are_models_of_one_body(two_tasks: Path) -> None:
    declare(two_tasks, body=BODY | {"train": SETTINGS | {"save_steps": 4, "save_total_limit": 2}})
    run("train", "p.yaml", "both")
    for step in (8, 12):
        folders = [two_tasks / f"artifacts/students/{name}/checkpoint-{step}" for name in STUDENTS]
        opinion, things = (load_file(folder / "model.safetensors") for folder in folders)
        shared = opinion.keys() & things.keys() - {"classifier.weight", "classifier.bias"}
        assert len(shared) > 30
        assert all(torch.equal(opinion[name], things[name]) for name in shared)
    assert not (two_tasks / "artifacts/students/things/checkpoint-4").exists()


def test_the_command_trains_both_at_once_and_again_when_one_changes(
    two_tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("train", "p.yaml", "things")
    told = capsys.readouterr().err
    assert re.findall(r"artifacts/students/(\w+): best at step", told) == ["opinion", "things"]
    run("train", "p.yaml")
    assert capsys.readouterr().err.count(": up to date") == 2
    changed = {**STUDENTS, "things": STUDENTS["things"] | {"evaluate": []}}
    declare(two_tasks, changed)
    run("train", "p.yaml")
    assert capsys.readouterr().err.count(": up to date") == 2
    for body in (BODY | {"tau": 0.0}, BODY):
        declare(two_tasks, changed, body)
        run("train", "p.yaml", "opinion")
        assert capsys.readouterr().err.count(": best at step") == 2
    objectives = STUDENTS["things"]["objectives"][:1]
    declare(two_tasks, {**STUDENTS, "things": STUDENTS["things"] | {"objectives": objectives}})
    run("train", "p.yaml", "opinion")
    assert capsys.readouterr().err.count(": best at step") == 2
    assert not [*(two_tasks / ".kdpipe/runs").iterdir()]


def test_dvc_has_one_stage_for_a_body(two_tasks: Path) -> None:
    declare(two_tasks)
    found = dvc.stages(load_pipeline(Path("p.yaml")), Path("p.yaml"), Path())
    assert [name for name in found if name.startswith(("train", "evaluate"))] == [
        *("train-both", "evaluate-opinion", "evaluate-things")
    ]
    stage = found["train-both"]
    assert stage["cmd"].endswith(" p.yaml both")
    assert stage["params"] == [
        {
            "p.yaml": [
                *("students.opinion", "students.things", "bodies.both"),
                *("teachers.judge", "teachers.tiny", "teachers.tagger"),
            ]
        }
    ]
    assert [next(iter(out)) for out in stage["outs"]] == [
        f"artifacts/students/{name}/manifest.json" for name in STUDENTS
    ]
    assert {f"artifacts/{name}/manifest.json" for name in ("caches/of-judge", "corpora/tags")} < {
        *stage["deps"]
    }


# what is refused


@pytest.mark.parametrize(
    ("students", "body", "message"),
    [
        (
            {"opinion": {"model": SHARED | {"body": "bth"}}},
            BODY,
            "students.opinion.model names body 'bth', which does not exist: did you mean 'both'?"
            " allowed: both",
        ),
        (
            {"opinion": {"train": SETTINGS}},
            BODY,
            "students.opinion.train: a body is trained as a whole: say it in bodies.both.train",
        ),
        (
            {name: {"model": {"kind": "shape"}} for name in STUDENTS},
            BODY,
            "bodies.both: no student has it: give one model: {kind: shared, body: both}",
        ),
        (
            {"both": STUDENTS["opinion"]},
            BODY,
            "bodies.both: a student is called so too: give one of them another name",
        ),
        (
            {name: {"caches": [], "corpus": "reviews", "objectives": [{"kind": "labels"}]}
             for name in STUDENTS},
            BODY,
            "bodies.both: model of kind 'teacher_layers' needs a teacher: let 'caches' of a"
            " student that has it begin with one of a teacher that is run",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_as_the_file_is_read(
    two_tasks: Path, students: dict[str, Any], body: dict[str, Any], message: str
) -> None:
    merged = {name: STUDENTS.get(name, {}) | students.get(name, {}) for name in STUDENTS | students}
    with pytest.raises(UsageError) as caught:
        declare(two_tasks, merged, body)
    where, _, text = str(caught.value).partition(": ")
    assert text == message
    assert re.fullmatch(r"p\.yaml:\d+", where)


def test_a_shared_body_shares_no_other_body(two_tasks: Path) -> None:
    with pytest.raises(UsageError, match=r"bodies.both.model: .*'shared'"):
        declare(two_tasks, body=BODY | {"model": SHARED})


def test_one_body_reads_with_one_tokenizer(
    two_tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(two_tasks)
    pipeline = YAML(typ="safe").load(Path("p.yaml"))
    vocabulary = (two_tasks / "tagger/tokenizer.json").read_text()
    shutil.copytree(two_tasks / "tagger", two_tasks / "other")
    (two_tasks / "other/tokenizer.json").write_text(vocabulary.replace('"cat"', '"catt"'))
    pipeline["teachers"]["tagger"]["model"] = "other"
    pipeline["corpora"]["tags"]["tokenizer"] = "tagger"
    with Path("p.yaml").open("w") as file:
        YAML().dump(pipeline, file)
    run("tokenize", "p.yaml", "tags")
    run("cache-teacher", "p.yaml", "of-tagger")
    capsys.readouterr()
    assert cli.main(["train", "p.yaml", "both"]) == 2
    assert capsys.readouterr().err == (
        "kdpipe: error: students opinion and things share body 'both', but their corpora are read"
        " by different tokenizers: give all of them the same 'tokenizer'\n"
    )


def test_a_body_is_named_where_a_student_is(
    two_tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(two_tasks)
    assert open_project(Path("p.yaml")).pipeline.choose_students(["things", "both"]) == [
        *("things", "opinion")
    ]
    assert cli.main(["evaluate", "p.yaml", "bth"]) == 2
    assert "no student is called 'bth': did you mean 'both'?" in capsys.readouterr().err
