"""How good a student in training is on held-out rows, by labels too; the best one stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
from pydantic import TypeAdapter

from kdpipe import job, train, validate
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.job import Job
from kdpipe.sources.row import Row
from kdpipe.tasks import Task
from kdpipe.tasks.subject import Subject
from kdpipe.tasks.tagging import tags_of
from kdpipe.train_spec import TrainSpec
from tests import two_tasks
from tests.labelled import NOTHING
from tests.small import SEQUENCE, SMALL, TOKEN, TRAIN, reviews, run, tagged, write

RECURRENT = {"kind": "recurrent", **SMALL}
SETTINGS = TRAIN | {"max_steps": 40, "tokens_per_batch": 128, "eval_steps": 5}
DEV = "dev.conll"


def prepared(root: Path, student: dict[str, Any], metric: str, **corpus: Any) -> Job:
    """A student before its first step, and what its corpus is beside what `small` says."""
    settings = SETTINGS | {"metric_for_best_model": metric}
    spec: dict[str, Any] = {"model": RECURRENT, "train": settings} | student
    place = write(root, {"s": spec})
    if corpus:
        name = spec["corpus"]
        old = place.pipeline.corpora[name].model_dump(mode="json", exclude_unset=True)
        kept = {key: value for key, value in (old | corpus).items() if value is not None}
        place = write(root, {"s": spec}, corpora={name: kept})
    for name in {spec.get("corpus", "text")}:
        run("tokenize", "p.yaml", name)
    if "caches" in spec:
        run("cache-teacher", "p.yaml")
    return job.prepare(place, "s", *place.inputs("s"), "cpu")


def conll(path: Path, rows: list[tuple[list[str], list[str]]]) -> None:
    text = ("".join(f"{w} {tag}\n" for w, tag in zip(*row, strict=True)) for row in rows)
    path.write_text("\n".join(text))


def dev_of_tags(root: Path) -> dict[str, Any]:
    """Sentences of one's own to hold out: some are cut, some have no tags, one has other things."""
    other = (["The", "red", "fox", "is", "late"], ["O", "B-THING", "I-THING", "O", "O"])
    conll(root / DEV, [*tagged()[:20], other])
    conll(root / "bare.conll", [(words[::-1], tags) for words, tags in tagged()[:9]])
    bare = {"kind": "conll", "files": ["bare.conll"], "label_column": None}
    named = [bare, {"kind": "conll", "files": [DEV]}]
    return {"validation": None, "validation_sources": named, "max_seq_length": 8}


def subject_of(work: Job) -> Subject:
    limit = work.run.corpus.facts.max_seq_length
    return Subject("s", work.run.student.eval(), work.tokenizer, limit, "", "fp32")


@pytest.mark.parametrize("crf", [False, True])
def test_taggers_are_measured_as_evaluate_measures_them(project, crf):
    own = TOKEN | {"head": {"kind": "token", "crf": crf}}
    work = prepared(project, own, "eval_f1", **dev_of_tags(project))
    assert work.run.student.dims.classes == ("B-THING", "I-THING", "O")
    assert len(validate.rows_to_measure(work.run)) == 30
    found = []
    for step in train.fit(work.run):
        if step.measured is None:
            continue
        asked = TypeAdapter(Task).validate_python({"kind": "tagging", "file": DEV})
        scores = asked.score(subject_of(work), NOTHING, Path())
        assert step.measured["eval_f1"] == pytest.approx(scores["tagging.f1"])
        assert "eval_accuracy" not in step.measured
        found.append(step.measured["eval_f1"])
    # Behind the cut of eight tokens nothing is found, so that not all can be right.
    assert len({*found}) > 2
    assert 0.5 < max(found) < 0.95
    said = tags_of(subject_of(work), [Row("", words=tuple(words)) for words, _ in tagged()[:20]])
    other = tags_of(subject_of(work), [Row("", words=("The", "red", "fox", "is", "late"))])
    gold = [tags for _, tags in tagged()[:20]] + [["O", "B-THING", "I-THING", "O", "O"]]
    assert found[-1] == pytest.approx(seqeval.metrics.f1_score(gold, said + other))


def test_tags_of_words_have_an_accuracy(project):
    work = prepared(project, TOKEN, "eval_accuracy", **dev_of_tags(project))
    *_, last = train.fit(work.run)
    keys = {"kind": "tagging", "file": DEV, "metric": "accuracy"}
    asked = TypeAdapter(Task).validate_python(keys)
    scores = asked.score(subject_of(work), NOTHING, Path())
    assert last.measured is not None
    assert last.measured == {
        "eval_loss": last.measured["eval_loss"],
        "eval_accuracy": pytest.approx(scores["tagging.accuracy"]),
    }
    assert 0.5 < scores["tagging.accuracy"] < 1.0


@pytest.mark.parametrize("pure", [False, True])
def test_rows_have_an_accuracy_also_where_no_objective_reads_labels(project, pure):
    """The best model is the most accurate one, and of those the one with the lowest loss."""
    dev = [f"{text}\t{label}\n" for text, label in reviews()[:32]]
    dev += [f"{text}!\tbad\n" for text, _ in reviews()[:8]]
    (project / "known.tsv").write_text("text\tlabel\n" + "".join(dev))
    (project / "dev.tsv").write_text("text\tlabel\n" + "".join([*dev, "Who knows.\t\n"]))
    source = {"kind": "files", "files": ["dev.tsv"], "label_column": "label"}
    own = SEQUENCE | {"objectives": [{"kind": "dropout_penalty"}]} if pure else SEQUENCE
    named = {"validation": None, "validation_sources": [source]}
    work = prepared(project, own, "eval_accuracy", **named)
    assert (work.run.gold is None) == pure
    job.carry_out(work, project / "runs")
    lines = [line for line in work.log.lines if "eval_accuracy" in line]
    found = [line["eval_accuracy"] for line in lines]
    assert len(found) == 8
    assert pure or len({*found}) > 2
    best = work.run.progress
    assert best.best["eval_accuracy"] == max(found)
    chosen = max(lines, key=lambda line: (line["eval_accuracy"], -line["eval_loss"]))
    assert best.best_step == chosen["step"]
    work.run.modules.load_state_dict(work.run.best)
    asked = TypeAdapter(Task).validate_python({"kind": "classification", "file": "known.tsv"})
    scores = asked.score(subject_of(work), NOTHING, Path())
    assert best.best["eval_accuracy"] == pytest.approx(scores["classification.accuracy"])


def test_more_is_better_but_for_the_loss():
    def better(name: str, value: float, loss: float) -> bool:
        spec = TrainSpec(metric_for_best_model=name)
        measured = {"eval_loss": loss} | {name: value}
        return train.is_better(spec, measured, {"eval_loss": 2.0} | {name: 0.5})

    for name in ("eval_accuracy", "eval_f1", "eval_cosine"):
        assert [better(name, value, 2.0) for value in (0.4, 0.5, 0.6)] == [False, False, True]
        # Of two that are as good the one with the lower loss is better.
        assert [better(name, value, 1.0) for value in (0.4, 0.5, 0.6)] == [False, True, True]
        assert [better(name, value, 3.0) for value in (0.4, 0.5, 0.6)] == [False, False, True]
    assert [better("eval_loss", value, 2.0) for value in (0.4, 0.5, 0.6)] == [True, False, False]


def test_rows_that_are_drawn_are_a_sample_and_rows_that_are_named_are_not(project, monkeypatch):
    monkeypatch.setattr(validate, "MOST_DRAWN", 3)
    drawn = prepared(project, TOKEN, "eval_loss")
    held_out = np.flatnonzero(drawn.run.corpus.held_out)
    assert len(held_out) > 3
    assert validate.rows_to_measure(drawn.run).tolist() == held_out[:3].tolist()
    named = prepared(project, TOKEN, "eval_loss", **dev_of_tags(project))
    assert len(validate.rows_to_measure(named.run)) == 30
    assert [*validate.measure(named.run)] == ["eval_loss"]


REGRESSION = {"corpus": "reviews", "head": {"kind": "sequence", "problem_type": "regression"}}
POS = {"classes": ["NOUN", "O", "B-THING"]}
ONE_CLASS = "a head that gives each row or word one class: use eval_loss"
ENTITIES = "tags of words that mark entities, such as B-X, I-X and O: use eval_accuracy"
LABELS = (
    "labels of held-out rows that its teachers have read: set label_column and"
    " 'validation_sources' of the corpus, or use eval_loss"
)
NO_LABELS = [{"kind": "conll", "files": ["tags.conll"], "label_column": None}]


@pytest.mark.parametrize(
    ("student", "metric", "corpus", "message"),
    [
        pytest.param(
            {"caches": ["said"], "objectives": [{"kind": "embedding"}]},
            "eval_accuracy",
            {},
            ONE_CLASS,
            id="embeddings",
        ),
        pytest.param(
            REGRESSION | {"objectives": [{"kind": "dropout_penalty"}]},
            "eval_f1",
            {},
            ONE_CLASS,
            id="numbers",
        ),
        pytest.param(SEQUENCE, "eval_f1", {}, ENTITIES, id="rows"),
        pytest.param(TOKEN | {"head": {"kind": "token"} | POS}, "eval_f1", {}, ENTITIES, id="tags"),
        pytest.param(TOKEN, "eval_f1", {"validation": 0.0}, LABELS, id="nothing is held out"),
        pytest.param(
            TOKEN,
            "eval_accuracy",
            {"validation": None, "validation_sources": NO_LABELS, "deduplicate": False},
            LABELS,
            id="no labels",
        ),
    ],
)
def test_a_metric_that_cannot_be_had(project, student, metric, corpus, message):
    if message == LABELS and "validation_sources" in corpus:
        write(project, {})
        conll(project / "own.conll", [(words[::-1], tags[::-1]) for words, tags in tagged()])
        corpus = corpus | {"sources": [{"kind": "conll", "files": ["own.conll"]}]}
    with pytest.raises(UsageError) as caught:
        prepared(project, student, metric, **corpus)
    assert str(caught.value) == f"student 's': metric_for_best_model: {metric} needs {message}"


def test_labels_that_the_head_has_not_are_told_before_the_first_step(project):
    own = SEQUENCE | {"head": {"kind": "sequence", "classes": ["yes", "no"]}}
    pure = own | {"objectives": [{"kind": "dropout_penalty"}]}
    with pytest.raises(ArtifactError, match="is none of the 2 classes of the model"):
        prepared(project, pure, "eval_accuracy")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_tasks.make(tmp_path_factory.mktemp("made"))


def test_a_shared_body_is_chosen_by_what_all_of_its_students_have(shared, tmp_path, monkeypatch):
    here = two_tasks.copy_of(shared, tmp_path / "here", monkeypatch)
    settings = two_tasks.SETTINGS | {"metric_for_best_model": "eval_accuracy"}
    body = two_tasks.BODY | {"train": settings}
    jobs = two_tasks.jobs_of(two_tasks.declare(here, body=body))
    job.carry_out_together(jobs, here / "runs")
    best = jobs.group.progress.best
    each = [best["opinion.eval_accuracy"], best["things.eval_accuracy"]]
    assert best["eval_accuracy"] == pytest.approx(sum(each) / 2)
    assert each[0] != each[1]
    body["train"] = settings | {"metric_for_best_model": "eval_f1"}
    with pytest.raises(UsageError) as caught:
        two_tasks.jobs_of(two_tasks.declare(here, body=body))
    assert str(caught.value) == (
        f"student 'opinion': metric_for_best_model: eval_f1 needs {ENTITIES}"
    )
