"""Tasks with labels: a model's answers to each text alone, by the metrics of other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from pydantic import ValidationError

from kdpipe.activations import Tokens
from kdpipe.errors import NonFiniteError, UsageError
from kdpipe.tasks import Agreement, Fidelity
from kdpipe.tasks.subject import HeldOut
from tests.labelled import (
    CLASSES,
    NOTHING,
    PAIRS,
    TEXTS,
    by_hand,
    refused,
    subject,
    task,
    write,
)
from tests.tiny import tiny_headed_folder, tiny_teacher_folder, tiny_tokenizer

# classification


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
@pytest.mark.parametrize("pairs", [False, True])
def test_classification(tmp_path: Path, suffix: str, pairs: bool) -> None:
    folder = tiny_headed_folder(tmp_path / "model", "sequence", CLASSES, seed=1)
    texts = PAIRS if pairs else TEXTS
    said = by_hand(folder, texts).argmax(1)
    gold = np.where(np.arange(len(texts)) % 3 > 0, said, (said + 1) % 3)
    rows: list[dict[str, Any]] = [{"text": text, "label": ""} for text in texts]
    if pairs:
        rows = [{"text": one, "other": other, "label": ""} for one, other in PAIRS]
    for row, label in zip(rows, gold, strict=True):
        row["label"] = CLASSES[label]
    write(tmp_path / f"data{suffix}", rows)
    columns = {"text_pair_column": "other"} if pairs else {}
    found = task(kind="classification", file=f"data{suffix}", **columns).score(
        subject(folder), NOTHING, tmp_path
    )
    assert len({*said}) > 1
    assert found == pytest.approx(
        {
            "classification.accuracy": sklearn.metrics.accuracy_score(gold, said),
            "classification.macro_f1": sklearn.metrics.f1_score(gold, said, average="macro"),
            "classification.matthews": sklearn.metrics.matthews_corrcoef(gold, said),
        }
    )


def test_classes_by_the_folders_that_texts_lie_in(tmp_path: Path) -> None:
    folder = tiny_headed_folder(tmp_path / "model", "sequence", ("neg", "pos"), seed=1)
    said = by_hand(folder, TEXTS).argmax(1)
    gold = np.where(np.arange(len(TEXTS)) % 3 > 0, said, 1 - said)
    for number, (text, label) in enumerate(zip(TEXTS, gold, strict=True)):
        path = tmp_path / "test" / ("neg", "pos")[label] / f"{number}_7.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "test" / "urls_pos.txt").write_text("no text of IMDB\n")
    one = task(kind="classification", file="test")
    found = one.score(subject(folder), NOTHING, tmp_path)
    assert found["classification.accuracy"] == np.mean(said == gold)


@pytest.mark.parametrize("positive", ["1", 1])
def test_f1_of_one_class(tmp_path: Path, positive: str | int) -> None:
    folder = tiny_headed_folder(tmp_path / "model", "sequence", ("0", "1"), seed=1)
    logits = by_hand(folder, TEXTS)
    said = logits.argmax(1)
    gold = np.where(np.arange(len(TEXTS)) % 3 > 0, said, 1 - said)
    rows = [{"text": text, "label": int(x)} for text, x in zip(TEXTS, gold, strict=True)]
    write(tmp_path / "data.tsv", rows)
    one: dict[str, Any] = {"kind": "classification", "file": "data.tsv"}
    who = subject(folder)
    found = task(**one, positive_label=positive).score(who, NOTHING, tmp_path)
    assert found["classification.f1"] == pytest.approx(sklearn.metrics.f1_score(gold, said))
    assert found["classification.f1"] != pytest.approx(found["classification.macro_f1"])
    assert found["classification.f1"] != found["classification.accuracy"]
    assert "classification.f1" not in task(**one).score(who, NOTHING, tmp_path)
    with pytest.raises(UsageError) as caught:
        task(**one, positive_label="yes").score(who, NOTHING, tmp_path)
    assert str(caught.value) == (
        "positive_label 'yes' of task 'classification' is none of the model's 2 classes: allowed:"
        " 0, 1"
    )


def test_classes_may_be_numbers_and_columns_have_other_names(tmp_path: Path) -> None:
    folder = tiny_headed_folder(tmp_path / "model", "sequence", ("0", "1", "2"))
    said = by_hand(folder, [f"so: {text}" for text in TEXTS]).argmax(1)
    rows = [{"words": t, "n": int(x)} for t, x in zip(TEXTS, said, strict=True)]
    one = {"kind": "classification", "text_column": "words", "label_column": "n", "name": "mine"}
    for suffix in (".tsv", ".jsonl"):
        write(tmp_path / f"data{suffix}", rows)
        right = task(file=f"data{suffix}", **one)
        assert right.main == "mine.accuracy"
        assert right.files() == [f"data{suffix}"]
        who = subject(folder, prompt="so: ")
        assert right.score(who, NOTHING, tmp_path)["mine.accuracy"] == 1.0


def test_labels_that_do_not_fit_are_named(tmp_path: Path) -> None:
    who = subject(tiny_headed_folder(tmp_path / "model", "sequence", CLASSES))
    one = task(kind="classification", file="data.jsonl")
    write(tmp_path / "data.jsonl", [{"text": "a", "label": "sun"}, {"text": "b", "label": "fog"}])
    assert refused(one, who, tmp_path) == (
        "data.jsonl: label 'fog' is none of the model's 3 classes (sun, rain, snow): choose the"
        " right label_column"
    )
    write(tmp_path / "data.jsonl", [{"text": "a", "label": "sun"}, {"text": "b", "label": None}])
    assert refused(one, who, tmp_path) == (
        "data.jsonl: row 2 has nothing in column 'label': mend it, or choose another label_column"
    )
    (tmp_path / "data.jsonl").write_text("")
    assert refused(one, who, tmp_path).endswith("data.jsonl is empty: no row has text; mend it, or"
                                                " take it out of 'files'")  # fmt: skip
    (tmp_path / "data.jsonl").unlink()
    assert "data.jsonl does not exist" in refused(one, who, tmp_path)
    write(tmp_path / "data.jsonl", [{"text": "a", "lable": "sun"}])
    assert "no column 'label': did you mean 'lable'?" in refused(one, who, tmp_path)


# several labels


@pytest.mark.parametrize("threshold", [0.5, 0.4])
def test_several_labels(tmp_path: Path, threshold: float) -> None:
    problem = "multi_label_classification"
    folder = tiny_headed_folder(tmp_path / "model", "sequence", CLASSES, problem)
    probabilities = 1 / (1 + np.exp(-by_hand(folder, TEXTS)))
    said = probabilities > threshold
    gold = said.copy()
    gold[::4] = ~gold[::4]
    gold[:, 2] |= ~gold.any(1)
    sets = [[name for name, there in zip(CLASSES, row, strict=True) if there] for row in gold]
    wanted = {
        "multi_label.micro_f1": sklearn.metrics.f1_score(gold, said, average="micro"),
        "multi_label.macro_f1": sklearn.metrics.f1_score(
            gold, said, average="macro", zero_division=0
        ),
        "multi_label.accuracy": sklearn.metrics.accuracy_score(gold, said),
    }
    who, keys = subject(folder), {"kind": "multi_label", "threshold": threshold}
    rows = [{"text": text, "label": names} for text, names in zip(TEXTS, sets, strict=True)]
    write(tmp_path / "data.jsonl", rows)
    lists = task(file="data.jsonl", **keys)
    assert lists.score(who, NOTHING, tmp_path) == pytest.approx(wanted)
    write(tmp_path / "data.tsv", [{**row, "label": "; ".join(row["label"])} for row in rows])
    cut = task(file="data.tsv", label_separator=";", **keys)
    assert cut.score(who, NOTHING, tmp_path) == pytest.approx(wanted)
    assert cut.main == "multi_label.micro_f1"
    whole = task(file="data.tsv", **keys)
    assert "is none of the model's 3 classes" in refused(whole, who, tmp_path)


def test_no_label_at_all_is_a_set_too(tmp_path: Path) -> None:
    problem = "multi_label_classification"
    folder = tiny_headed_folder(tmp_path / "model", "sequence", CLASSES, problem)
    write(tmp_path / "data.jsonl", [{"text": text, "label": []} for text in TEXTS])
    found = task(kind="multi_label", file="data.jsonl").score(subject(folder), NOTHING, tmp_path)
    none = (by_hand(folder, TEXTS) <= 0).all(1)
    assert found["multi_label.accuracy"] == pytest.approx(none.mean())
    assert found["multi_label.micro_f1"] == 0.0


@pytest.mark.parametrize(
    "keys",
    [{"threshold": 0.0}, {"threshold": 1.0}, {"label_separator": ""}, {"text_column": ""}],
)
def test_what_no_task_can_be_is_refused_with_the_file(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        task(kind="multi_label", file="data.tsv", **keys)


# regression


def test_regression(tmp_path: Path) -> None:
    folder = tiny_headed_folder(tmp_path / "model", "sequence", ("LABEL_0",), "regression")
    said = by_hand(folder, PAIRS)[:, 0]
    gold = said + np.sin(np.arange(len(PAIRS)))
    rows: list[dict[str, Any]] = [
        {"text": one, "other": other, "score": round(float(number), 3)}
        for (one, other), number in zip(PAIRS, gold, strict=True)
    ]
    write(tmp_path / "data.tsv", rows)
    one = task(kind="regression", file="data.tsv", text_pair_column="other", name="sts")
    found = one.score(subject(folder), NOTHING, tmp_path)
    assert found == pytest.approx(
        {
            "sts.spearman": scipy.stats.spearmanr(said, gold).statistic,
            "sts.pearson": scipy.stats.pearsonr(said, gold).statistic,
        },
        abs=1e-3,
    )
    assert one.main == "sts.spearman"
    rows[3]["score"] = "much"
    write(tmp_path / "data.tsv", rows)
    assert refused(one, subject(folder), tmp_path) == (
        "data.tsv: column 'score' has labels that are no numbers"
    )


# agreement and fidelity


def held_out(folder: Path | None, classes: tuple[str, ...] = CLASSES) -> HeldOut:
    """Rows, and what the model in a folder says about them."""
    tokens = Tokens.of(tiny_tokenizer().encode(TEXTS, 64), 0)
    logits = None if folder is None else by_hand(folder, TEXTS)
    return HeldOut(tokens, None, None, logits, classes)


def test_agreement_is_about_the_most_likely_class(tmp_path: Path) -> None:
    teacher = tiny_headed_folder(tmp_path / "teacher", "sequence", CLASSES, seed=1)
    student = tiny_headed_folder(tmp_path / "student", "sequence", CLASSES, seed=2)
    rows, one = held_out(teacher), Agreement(kind="agreement")
    assert one.score(subject(teacher), rows, tmp_path) == {"agreement": 1.0}
    theirs, mine = (by_hand(folder, TEXTS).argmax(1) for folder in (teacher, student))
    share = (theirs == mine).mean()
    assert one.score(subject(student), rows, tmp_path) == pytest.approx({"agreement": share})
    few = one.score(subject(student), rows.spread(7), tmp_path)["agreement"]
    places = np.linspace(0, len(TEXTS) - 1, 7).round().astype(int)
    assert few == pytest.approx((theirs == mine)[places].mean())


def test_agreement_goes_by_the_names_of_the_classes(tmp_path: Path) -> None:
    names = ("snow", "sun", "rain")
    teacher = tiny_headed_folder(tmp_path / "teacher", "sequence", CLASSES)
    student = tiny_headed_folder(tmp_path / "student", "sequence", names)
    theirs, mine = (by_hand(folder, TEXTS).argmax(1) for folder in (teacher, student))
    assert (theirs == mine).all()
    named = [CLASSES[x] == names[y] for x, y in zip(theirs, mine, strict=True)]
    found = Agreement(kind="agreement").score(subject(student), held_out(teacher), tmp_path)
    assert found == pytest.approx({"agreement": np.mean(named)})
    assert refused(
        Agreement(kind="agreement"), subject(student), tmp_path, held_out(teacher, ("a", "b", "c"))
    ) == (
        "agreement is about the same classes, tiny has snow, sun, rain and the teacher a, b, c:"
        " take the task out, or give the head these classes"
    )


def test_what_the_cache_lacks_is_said(tmp_path: Path) -> None:
    who = subject(tiny_headed_folder(tmp_path / "model", "sequence", CLASSES))
    assert refused(Agreement(kind="agreement"), who, tmp_path, held_out(None)) == (
        "agreement needs the teacher's logits of rows in the first cache: add a target of kind:"
        " logits"
    )
    # Logits are no embeddings, though both are vectors of rows.
    assert refused(Fidelity(), who, tmp_path, held_out(tmp_path / "model")) == (
        "fidelity needs the teacher's embeddings in the first cache: add a target of kind:"
        " embedding"
    )


# models that do not fit


@pytest.mark.parametrize(
    "kind", ["classification", "multi_label", "regression", "tagging", "agreement"]
)
def test_a_model_without_such_a_head_has_no_score(tmp_path: Path, kind: str) -> None:
    one = task(kind=kind, **({} if kind == "agreement" else {"file": "none.tsv"}))
    assert one.score(subject(tiny_teacher_folder(tmp_path / "a")), NOTHING, tmp_path) == {}
    span = tiny_headed_folder(tmp_path / "b", "span")
    assert one.score(subject(span), NOTHING, tmp_path) == {}


def test_nan_is_refused(tmp_path: Path) -> None:
    who = subject(tiny_headed_folder(tmp_path / "model", "sequence", CLASSES))
    with torch.no_grad():
        next(who.encoder.model.parameters()).fill_(float("nan"))
    write(tmp_path / "data.jsonl", [{"text": "a", "label": "sun"}])
    with pytest.raises(NonFiniteError, match="tiny gives NaN or Inf for 1 of 1 text:"):
        task(kind="classification", file="data.jsonl").score(who, NOTHING, tmp_path)


def test_a_suffix_that_no_task_reads(tmp_path: Path) -> None:
    who = subject(tiny_headed_folder(tmp_path / "model", "sequence", CLASSES))
    (tmp_path / "data.xlsx").write_bytes(b"x")
    one = task(kind="classification", file="data.xlsx")
    with pytest.raises(UsageError, match=r"data\.xlsx: unknown format '\.xlsx'"):
        one.score(who, NOTHING, tmp_path)
