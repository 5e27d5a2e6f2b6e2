"""Three models measured and written down; times are only compared where they differ by far."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from kdpipe import evaluate, speed
from kdpipe.activations import Tokens
from kdpipe.encoder import Encoder, embed
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.load import load_encoder
from kdpipe.modules import head_of
from kdpipe.report import ROLES, Report
from kdpipe.speed import Speed
from kdpipe.tasks import Fidelity, Similarity, Task
from kdpipe.tasks.subject import HeldOut, Subject
from tests.tiny import SENTENCES, tiny_encoder, tiny_teacher_folder, tiny_tokenizer

TSV = "sentence1\tsentence2\tscore\n" + "".join(
    f"{SENTENCES[index]}\t{SENTENCES[index + 1]}\t{index % 6}\n" for index in range(0, 30, 2)
)


def subject(name: str, encoder: Encoder, folder: Path | None = None) -> Subject:
    return Subject(name, encoder, tiny_tokenizer(), 64, "", "fp32", folder)


def three() -> list[Subject]:
    return [
        subject("minilm", tiny_encoder(layers=3, seed=1)),
        subject("small, untrained", tiny_encoder(layers=1, width=16, seed=2)),
        subject("small", tiny_encoder(layers=1, width=16, seed=3)),
    ]


def held_out(rows: int = 60) -> HeldOut:
    encoded = tiny_tokenizer().encode(SENTENCES[:rows], 64)
    tokens = Tokens(torch.from_numpy(encoded.ids), torch.from_numpy(encoded.lengths))
    return HeldOut(tokens, embed(tiny_encoder(layers=3, seed=1), tokens, "fp32").numpy())


def some_speed(rows_per_second: float = 1234.5678, speed_up: float = 3.14159) -> Speed:
    return Speed(
        parameters=1_500_000,
        bytes=6_000_400,
        rows_per_second=rows_per_second,
        tokens_per_second=9876.54321,
        latency_p50_ms=1.23456,
        latency_p95_ms=2.5,
        speed_up=speed_up,
        rows=60,
        dtype="bf16",
        device="cpu",
        threads=2,
    )


def some_report() -> Report:
    return Report(
        names=dict(zip(ROLES, ("minilm", "small, untrained", "small"), strict=True)),
        quality={
            "teacher": {"sts.spearman": 0.8, "fidelity.spearman": 1.0, "sts.pearson": -0.5},
            "untrained": {"sts.spearman": 0.2, "fidelity.spearman": 0.123456, "sts.pearson": 0.1},
            "student": {"sts.spearman": 0.82, "fidelity.spearman": 0.9, "sts.pearson": 0.7},
        },
        speed={
            "teacher": some_speed(speed_up=1.0),
            "untrained": some_speed(rows_per_second=5000.0),
            "student": some_speed(rows_per_second=5000.0),
        },
        mains=("sts.spearman", "fidelity.spearman"),
    )


def test_all_three_are_measured_by_all_tasks(tmp_path: Path) -> None:
    (tmp_path / "sts.tsv").write_text(TSV)
    tasks: list[Task] = [Fidelity(), Similarity(file="sts.tsv", name="sts")]
    subjects, rows = three(), held_out()
    report = evaluate.evaluate(subjects, tasks, rows, tmp_path, seconds=0.1)
    assert report.names == {
        "teacher": "minilm",
        "untrained": "small, untrained",
        "student": "small",
    }
    assert report.mains == ("sts.spearman", "fidelity.spearman")
    for role, one in zip(ROLES, subjects, strict=True):
        scores = [task.score(one, rows, tmp_path) for task in tasks]
        expected = {key: round(value, 6) for part in scores for key, value in part.items()}
        assert report.quality[role] == expected
    assert report.quality["teacher"]["fidelity.cosine"] == 1.0
    assert next(iter(report.quality["teacher"])) == "sts.spearman"
    assert report.quality["student"] != report.quality["untrained"]
    assert "fidelity.cosine" not in report.quality["student"]


def test_share_is_of_the_teacher_where_the_teacher_is_above_zero() -> None:
    share = some_report().share("student")
    assert share == {"sts.spearman": 1.025, "fidelity.spearman": 0.9}


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    evaluate.write_report(some_report(), tmp_path / "reports" / "small")
    folder = tmp_path / "reports" / "small"
    names = ["metrics.json", "report.svg", "speed.json", "table.tsv"]
    assert sorted(path.name for path in folder.iterdir()) == names
    count = dict.fromkeys(ROLES, 1_500_000)
    assert json.loads((folder / "metrics.json").read_text()) == {
        **some_report().quality,
        "share": {"fidelity.spearman": 0.9, "sts.spearman": 1.025},
        "parameters": count,
        "bytes": dict.fromkeys(ROLES, 6_000_400),
    }
    times = json.loads((folder / "speed.json").read_text())
    assert times["student"] == {
        **asdict(some_speed()),
        "rows_per_second": 5000.0,
        "tokens_per_second": 9876.543,
        "latency_p50_ms": 1.235,
        "speed_up": 3.142,
    }
    assert (folder / "table.tsv").read_text().splitlines() == [
        "model\trole\tsts.spearman\tfidelity.spearman\tshare_of_teacher\tparameters\tmegabytes"
        "\tsentences_per_second\tspeed_up\tlatency_p50_ms\tlatency_p95_ms",
        "minilm\tteacher\t0.8000\t1.0000\t1.0000\t1500000\t6.000\t1234.6\t1.00\t1.235\t2.500",
        "small, untrained\tuntrained\t0.2000\t0.1235\t0.2500\t1500000\t6.000\t5000.0\t3.14"
        "\t1.235\t2.500",
        "small\tstudent\t0.8200\t0.9000\t1.0250\t1500000\t6.000\t5000.0\t3.14\t1.235\t2.500",
    ]
    assert ElementTree.parse(folder / "report.svg").getroot().tag.endswith("svg")


def test_metrics_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        report = evaluate.evaluate(three(), [Fidelity()], held_out(), tmp_path, seconds=0.05)
        evaluate.write_report(report, tmp_path / name)
    assert (tmp_path / "a/metrics.json").read_bytes() == (tmp_path / "b/metrics.json").read_bytes()
    assert (tmp_path / "a/speed.json").read_bytes() != (tmp_path / "b/speed.json").read_bytes()


def test_the_card_gets_the_table_in_markdown() -> None:
    assert evaluate.markdown(some_report()).splitlines()[2] == (
        "| minilm | 0.8000 | 100.0 % | 1.5 M | 6 MB | 1,235 | 1.0x |"
    )


def test_a_teacher_of_no_worth_has_no_share(tmp_path: Path) -> None:
    report = some_report()
    quality = report.quality | {"teacher": {"sts.spearman": 0.0, "fidelity.spearman": 1.0}}
    report = replace(report, quality=quality)
    assert [row["share_of_teacher"] for row in evaluate.table(report)] == ["", "", ""]
    evaluate.write_report(report, tmp_path)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (
            [],
            "there is no task to measure by: add one to 'evaluate', such as {kind: fidelity}, or"
            " {kind: classification} for a head",
        ),
        (
            [Similarity(file="a.tsv"), Fidelity(), Similarity(file="b.tsv")],
            "two tasks of 'evaluate' give similarity.spearman: give each a 'name' of its own",
        ),
    ],
)
def test_tasks_that_cannot_be_told_apart(tasks: list[Task], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        evaluate.evaluate(three(), tasks, held_out(), tmp_path, seconds=0.05)
    assert str(caught.value) == message


def test_without_held_out_rows_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        evaluate.evaluate(three(), [Fidelity()], held_out(0), tmp_path)
    assert str(caught.value) == (
        "the corpus has no held-out rows to measure on: raise 'validation' of the corpus"
    )


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "teacher")
    encoder = load_encoder(folder, head_of(folder))
    saved, fresh = speed.measure(
        [subject("saved", encoder, folder), subject("fresh", tiny_encoder(layers=1))],
        held_out(),
        seconds=0.05,
    )
    assert saved.bytes == (folder / "model.safetensors").stat().st_size
    model = tiny_encoder(layers=1).model
    assert fresh.parameters == sum(weights.numel() for weights in model.parameters())
    assert fresh.bytes == 4 * fresh.parameters
    assert saved.parameters > fresh.parameters


def test_a_larger_model_is_found_to_be_slower() -> None:
    models = [
        subject("large", tiny_encoder(layers=12, width=128)),
        subject("small", tiny_encoder(layers=1, width=16)),
    ]
    large, small = speed.measure(models, held_out(), seconds=1.0)
    assert small.rows_per_second > 1.5 * large.rows_per_second
    assert small.latency_p50_ms < large.latency_p50_ms
    assert large.speed_up == 1.0
    assert small.speed_up == pytest.approx(small.rows_per_second / large.rows_per_second)


def test_what_a_speed_says_about_itself() -> None:
    rows = held_out()
    (found,) = speed.measure([subject("one", tiny_encoder())], rows, seconds=0.5)
    assert (found.dtype, found.device, found.threads) == ("fp32", "cpu", torch.get_num_threads())
    assert found.latency_p50_ms <= found.latency_p95_ms
    tokens = rows.spread(found.rows).tokens
    assert found.tokens_per_second / found.rows_per_second == pytest.approx(
        len(tokens.ids) / len(tokens)
    )


def test_models_of_one_shape_are_equally_fast() -> None:
    one, other, third = speed.measure(three(), held_out(), seconds=0.1)
    assert other == third
    assert one.rows_per_second != other.rows_per_second


def test_one_held_out_row_is_enough_for_the_clock() -> None:
    found = speed.measure(three(), held_out(1), seconds=0.05)
    assert [one.rows for one in found] == [1, 1, 1]
