"""The tables that people read, character by character."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from kdpipe.errors import ArtifactError
from kdpipe.report import comparison, markdown_table, show_tables

HEADER = (
    "model\trole\tsts.spearman\tfidelity.spearman\tshare_of_teacher\tparameters\tmegabytes"
    "\tsentences_per_second\tspeed_up\tlatency_p50_ms\tlatency_p95_ms\n"
)
TEACHER = "minilm\tteacher\t0.8203\t1.0000\t1.0000\t22713216\t90.868\t352.4\t1.00\t8.5\t14.2\n"


def write(root: Path, student: str, table: str = "") -> None:
    folder = root / "reports" / student
    folder.mkdir(parents=True)
    lines = (
        f"{student}, untrained\tuntrained\t0.2000\t0.1000\t\t950000\t3.821\t5000.0\t14.19\t1\t2\n"
    )
    lines += f"{student}\tstudent\t0.8110\t0.9000\t0.9887\t950000\t3.821\t5000.0\t14.19\t1\t2\n"
    (folder / "table.tsv").write_text(table or HEADER + TEACHER + lines)


def shown(root: Path, students: list[str], width: int = 80) -> list[str]:
    stream = io.StringIO()
    show_tables(root, students, Console(file=stream, width=width))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_one_student_in_words_for_people(tmp_path: Path) -> None:
    write(tmp_path, "small")
    lines = [line.split() for line in shown(tmp_path, ["small"])]
    text = [" ".join(words) for words in lines if words]
    assert text[0] == "Quality (sts.spearman) and speed"
    assert text[1] == "of sentences"
    assert text[2] == "model quality teacher parameters size per second speed-up"
    assert text[4:7] == [
        "minilm 0.8203 100.0 % 22.7 M 91 MB 352 1.0x",
        "small, untrained 0.2000 0.95 M 3.8 MB 5,000 14.2x",
        "small 0.8110 98.9 % 0.95 M 3.8 MB 5,000 14.2x",
    ]
    assert text[7:] == [
        "small:",
        f"model {tmp_path}/artifacts/students/small",
        f"picture {tmp_path}/reports/small/report.svg",
    ]


def test_a_shared_teacher_comes_once(tmp_path: Path) -> None:
    write(tmp_path, "small")
    write(tmp_path, "tiny")
    models = [row["model"] for row in comparison(tmp_path, ["small", "tiny"])]
    assert models == ["minilm", "small, untrained", "small", "tiny, untrained", "tiny"]
    lines = shown(tmp_path, ["small", "tiny"])
    assert sum("minilm" in line for line in lines) == 1
    assert sum("picture" in line for line in lines) == 2


def test_another_teacher_comes_too(tmp_path: Path) -> None:
    write(tmp_path, "small")
    write(tmp_path, "tiny", HEADER + TEACHER.replace("minilm", "large"))
    assert [row["model"] for row in comparison(tmp_path, ["small", "tiny"])][-1] == "large"


def test_students_with_other_headlines_get_a_table_each(tmp_path: Path) -> None:
    write(tmp_path, "small")
    write(tmp_path, "tiny")
    path = tmp_path / "reports/tiny/table.tsv"
    path.write_text(path.read_text().replace("sts.spearman", "news.spearman"))
    lines = shown(tmp_path, ["small", "tiny"])
    titles = [line for line in lines if line.startswith("Quality")]
    assert titles == ["Quality (sts.spearman) and speed", "Quality (news.spearman) and speed"]
    assert sum("minilm" in line for line in lines) == 2


def test_the_table_fits_80_characters_and_paths_are_never_broken(tmp_path: Path) -> None:
    name = "a-student-with-quite-a-long-name"
    write(tmp_path, name)
    lines = shown(tmp_path, [name])
    assert any(line.endswith(f"{tmp_path}/artifacts/students/{name}") for line in lines)
    table = [line for line in lines if "artifacts" not in line and "picture" not in line]
    assert max(len(line) for line in table) <= 80
    assert not any("\u2026" in line for line in table)


def test_paths_are_relative_in_the_project_itself(project: Path) -> None:
    write(project, "small")
    assert "  model    artifacts/students/small" in shown(Path(), ["small"])


def test_markdown(tmp_path: Path) -> None:
    write(tmp_path, "small")
    assert markdown_table(comparison(tmp_path, ["small"])) == (
        "| model | sts.spearman | of teacher | parameters | size"
        " | sentences per second | speed-up |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| minilm | 0.8203 | 100.0 % | 22.7 M | 91 MB | 352 | 1.0x |\n"
        "| small, untrained | 0.2000 |  | 0.95 M | 3.8 MB | 5,000 | 14.2x |\n"
        "| small | 0.8110 | 98.9 % | 0.95 M | 3.8 MB | 5,000 | 14.2x |\n"
    )


def test_numbers_of_large_models(tmp_path: Path) -> None:
    large = "big\tteacher\t0.9\t1\t1.0\t1230000000\t4920.5\t3.4\t1.00\t900\t1400\n"
    write(tmp_path, "small", HEADER + large)
    (row,) = markdown_table(comparison(tmp_path, ["small"])).splitlines()[2:]
    assert row == "| big | 0.9 | 100.0 % | 1,230 M | 4,920 MB | 3 | 1.0x |"


def test_a_student_that_was_not_evaluated(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "small" / "table.tsv"
    with pytest.raises(ArtifactError) as caught:
        comparison(tmp_path, ["small"])
    assert str(caught.value) == f"{path} does not exist: run 'kdpipe evaluate'"


@pytest.mark.parametrize(
    "table",
    [
        "\n",
        HEADER,
        HEADER + "minilm\tteacher\n",
        HEADER + TEACHER.replace("22713216", "many"),
        HEADER.replace("parameters", "weights") + TEACHER,
        HEADER.replace("model\trole", "name\trole") + TEACHER,
        "model\trole\tshare_of_teacher\tparameters\tmegabytes\tsentences_per_second\tspeed_up\n"
        "minilm\tteacher\t1.0\t1\t1.0\t1.0\t1.0\n",
    ],
)
def test_a_damaged_table(table: str, tmp_path: Path) -> None:
    write(tmp_path, "small", table)
    with pytest.raises(ArtifactError) as caught:
        comparison(tmp_path, ["small"])
    path = tmp_path / "reports" / "small" / "table.tsv"
    assert str(caught.value) == f"{path} is damaged: delete it and run 'kdpipe evaluate'"
