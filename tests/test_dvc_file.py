"""dvc.yaml from a pipeline file, and what the real DVC makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from kdpipe import dvc, versions
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.pipeline import load_pipeline

FILE = "pipelines/demo.yaml"
PIPELINE = """\
# The demo.
corpora:
  docs:
    sources: [{kind: files, files: [text/a.txt, "text/*.tsv"], text_column: words}]
    tokenizer: minilm
  raw:
    sources: [{kind: python_docs}]
    tokenizer: tokens
teachers:
  minilm: {model: models/minilm}
  big: {model: nobody/none}
caches:
  docs-minilm:
    corpus: docs
    teacher: minilm
    targets: [{kind: embedding}]
    tokens_per_batch: 512
  docs-big:
    corpus: docs
    teacher: big
    targets: [{kind: embedding}]
    dtype: fp32
students:
  small:
    caches: [docs-minilm]
    model: {kind: teacher_layers, layers: [1, 2]}
    objectives: [{kind: embedding, weight: 1.0}]
    train: {learning_rate: 1e-4, save_steps: 100}
    evaluate: [{kind: fidelity}, {kind: similarity, file: text/pairs.tsv}]
  tiny:
    caches: [docs-minilm, docs-big]
    model: {kind: checkpoint, model: models/start}
    embedding_size: 64
    objectives:
      - {kind: embedding, weight: 1.0, cache: docs-minilm}
      - {kind: embedding, weight: 0.5, cache: docs-big}
"""
# Stands in for kdpipe where only DVC is looked at: makes what a stage makes, and notes that it ran.
STAND_IN = """\
#!/bin/sh
echo "$*" >> ran.txt
test -e fail && exit 3
make() { mkdir -p "$(dirname "$1")"; { echo "$2"; cat "$1"; } > new 2> /dev/null; mv new "$1"; }
case $1 in
  tokenize) make artifacts/corpora/$5/manifest.json 1 ;;
  cache-teacher) make artifacts/caches/$5/manifest.json 1 ;;
  train) make artifacts/students/$5/manifest.json 1 ;;
  evaluate)
    for name in metrics speed; do mkdir -p reports/$5; echo '{"x": 1}' > reports/$5/$name.json; done
    echo '<svg xmlns="http://www.w3.org/2000/svg"/>' > reports/$5/report.svg
    printf 'model\\tx\\nsmall\\t1\\n' > reports/$5/table.tsv ;;
esac
"""

Edit = Callable[[str, str], None]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, now the current one, with a pipeline file and the files that it names."""
    monkeypatch.chdir(tmp_path)
    for folder in ("pipelines", "text", "models/minilm", "models/start", "tokens"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a.txt", "b.tsv", "pairs.tsv"):
        (tmp_path / "text" / name).write_text("words\n", "utf-8")
    (tmp_path / FILE).write_text(PIPELINE, "utf-8")
    return tmp_path


@pytest.fixture
def edit(project: Path) -> Edit:
    """Replace a text in the pipeline file, which has it once."""

    def edit(before: str, after: str) -> None:
        text = (project / FILE).read_text("utf-8")
        assert text.count(before) == 1
        (project / FILE).write_text(text.replace(before, after), "utf-8")

    return edit


def _write() -> str:
    root = Path()
    return dvc.dvc_yaml(load_pipeline(root / FILE), root / FILE, root)


def _stages() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(_write())["stages"]
    return found


def _kept(*paths: str) -> list[dict[str, Any]]:
    return [{path: {"cache": False, "persist": True}} for path in paths]


IN_FULL = {
    "tokenize-docs": {
        "cmd": "kdpipe tokenize --stage-version 2 pipelines/demo.yaml docs",
        "deps": ["models/minilm", "text/a.txt", "text/b.tsv", "text/pairs.tsv"],
        "params": [{FILE: ["corpora.docs", "teachers.minilm"]}],
        "outs": _kept("artifacts/corpora/docs/manifest.json"),
    },
    "tokenize-raw": {
        "cmd": "kdpipe tokenize --stage-version 2 pipelines/demo.yaml raw",
        "deps": ["tokens"],
        "params": [{FILE: ["corpora.raw"]}],
        "outs": _kept("artifacts/corpora/raw/manifest.json"),
    },
    "cache-teacher-docs-big": {
        "cmd": "kdpipe cache-teacher --stage-version 3 pipelines/demo.yaml docs-big",
        "deps": ["artifacts/corpora/docs/manifest.json"],
        "params": [{FILE: ["caches.docs-big", "teachers.big"]}],
        "outs": _kept("artifacts/caches/docs-big/manifest.json"),
    },
    "train-tiny": {
        "cmd": "kdpipe train --stage-version 2 pipelines/demo.yaml tiny",
        "deps": [
            "artifacts/caches/docs-big/manifest.json",
            "artifacts/caches/docs-minilm/manifest.json",
            "artifacts/corpora/docs/manifest.json",
            "models/minilm",
            "models/start",
        ],
        "params": [{FILE: ["students.tiny", "teachers.minilm", "teachers.big"]}],
        "outs": _kept("artifacts/students/tiny/manifest.json"),
    },
    "evaluate-small": {
        "cmd": "kdpipe evaluate --stage-version 1 pipelines/demo.yaml small",
        "deps": [
            "artifacts/caches/docs-minilm/manifest.json",
            "artifacts/corpora/docs/manifest.json",
            "artifacts/students/small/manifest.json",
            "text/pairs.tsv",
        ],
        "params": [{FILE: ["students.small"]}],
        "outs": _kept("reports/small/table.tsv"),
        "metrics": _kept("reports/small/metrics.json", "reports/small/speed.json"),
        "plots": _kept("reports/small/report.svg"),
    },
}


@pytest.mark.usefixtures("project")
def test_every_entry_of_the_pipeline_is_a_stage() -> None:
    found = _stages()
    assert list(found) == [
        *("tokenize-docs", "tokenize-raw", "cache-teacher-docs-minilm", "cache-teacher-docs-big"),
        *("train-small", "train-tiny", "evaluate-small", "evaluate-tiny"),
    ]
    for name, wanted in IN_FULL.items():
        assert found[name] == wanted, name
    assert found["evaluate-tiny"]["params"] == [{FILE: ["students.tiny"]}]


def test_what_has_nothing_to_be_measured_by_is_not_evaluated(edit: Edit) -> None:
    edit(
        """    teacher: minilm
    targets: [{kind: embedding}]
""",
        """    teacher: minilm
    targets: [{kind: hidden, layers: [1]}]
""",
    )
    edit("{kind: fidelity}", "{kind: similarity, file: sts.tsv}")
    Path("sts.tsv").write_text("sentence1\tsentence2\tscore\n")
    assert [name for name in _stages() if name.startswith("evaluate")] == ["evaluate-small"]


@pytest.mark.usefixtures("project")
def test_whole_sections_are_tracked_so_that_a_key_that_is_added_is_seen() -> None:
    keys = _stages()["cache-teacher-docs-minilm"]["params"][0][FILE]
    assert keys == ["caches.docs-minilm", "teachers.minilm"]


@pytest.mark.usefixtures("project")
def test_the_text_names_its_source_and_is_the_same_every_time(edit: Edit) -> None:
    text = _write()
    assert text.splitlines()[0] == (
        "# Written by 'kdpipe repro' from pipelines/demo.yaml: edit that file, not this one."
    )
    assert dvc.written_from(text) == FILE
    assert dvc.written_from("stages: {}\n") is None
    edit("# The demo.\n", "# Another comment.\n")
    assert _write() == text


def test_paths_that_a_shell_or_a_template_would_misread_are_quoted(project: Path) -> None:
    path = project / "my $HOME ${x}.yaml"
    (project / FILE).rename(path)
    found = dvc.stages(load_pipeline(path), path, project)["tokenize-raw"]
    assert found["cmd"] == "kdpipe tokenize --stage-version 2 'my $HOME \\${x}.yaml' raw"


def test_a_pipeline_file_outside_of_the_folder_is_refused(project: Path) -> None:
    root = project / "text"
    with pytest.raises(UsageError) as caught:
        dvc.dvc_yaml(load_pipeline(project / FILE), project / FILE, root)
    assert str(caught.value) == (
        f"{project / FILE} is outside {root.resolve()}: run kdpipe in a folder above it"
    )


@pytest.mark.parametrize("name", ["a.txt", "pairs.tsv"])
def test_a_missing_file_of_the_user_is_named(project: Path, edit: Edit, name: str) -> None:
    (project / "text" / name).unlink()
    with pytest.raises(ArtifactError) as caught:
        _stages()
    assert str(caught.value) == f"text/{name} does not exist: check the path in {FILE}"


@pytest.mark.usefixtures("project")
def test_rows_that_are_held_out_are_read_from_files_too(edit: Edit) -> None:
    sources = "sources: [{kind: python_docs}]"
    edit(sources, f"{sources}\n    validation_sources: [{{kind: files, files: [text/a.txt]}}]")
    assert _stages()["tokenize-raw"]["deps"] == ["text/a.txt", "tokens"]


@pytest.mark.usefixtures("project")
def test_targets_are_stages() -> None:
    known = ["tokenize-docs", "train-small"]
    assert dvc.choose(known, []) == []
    assert dvc.choose(known, ["train-small"]) == ["train-small"]
    with pytest.raises(UsageError) as caught:
        dvc.choose(known, ["train-smal"])
    assert str(caught.value) == (
        "no stage is called 'train-smal': did you mean 'train-small'? allowed: tokenize-docs,"
        " train-small"
    )


def test_ignored_are_what_kdpipe_makes_and_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.pyc\nartifacts", "utf-8")
    for _ in range(2):
        dvc.ignore(tmp_path)
    assert (tmp_path / ".gitignore").read_text("utf-8") == "*.pyc\nartifacts\n/.kdpipe/\n"
    # DVC refuses outputs that it is told to ignore, so artifacts are not in this one.
    assert (tmp_path / ".dvcignore").read_text("utf-8") == "/.kdpipe/\n"


def _environment(folder: Path) -> dict[str, str]:
    mine = {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(folder / ".site"), "NO_COLOR": "1"}
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "GIT_CEILING_DIRECTORIES": "/"}
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **mine, **home, "PATH": path}


def _dvc(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def repro(project: Path) -> Callable[..., list[str]]:
    """Run the real DVC on the dvc.yaml of now; the stages that ran, by a stand-in for kdpipe."""
    program = project / "bin" / "kdpipe"
    program.parent.mkdir()
    program.write_text(STAND_IN, "utf-8")
    program.chmod(0o755)
    assert _dvc(project, "init", "-q", "--no-scm").returncode == 0

    def repro(*targets: str, code: int = 0) -> list[str]:
        (project / dvc.FILE).write_text(_write(), "utf-8")
        log = project / "ran.txt"
        log.unlink(missing_ok=True)
        done = _dvc(project, "repro", *targets)
        assert (done.returncode == 0) == (code == 0), done.stdout + done.stderr
        lines = log.read_text("utf-8").splitlines() if log.is_file() else []
        return [f"{words[0]}-{words[-1]}" for words in (line.split() for line in lines)]

    return repro


def test_dvc_runs_what_is_out_of_date_and_nothing_else(
    project: Path,
    edit: Edit,
    repro: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everything = sorted(_stages())
    upstream = ["tokenize-docs", "cache-teacher-docs-minilm"]
    assert repro("train-small") == [*upstream, "train-small"]
    assert sorted(repro()) == sorted(set(everything) - {*upstream, "train-small"})

    before = os.times()
    assert repro() == []
    after = os.times()
    seconds = sum(after[2:4]) - sum(before[2:4])  # of its processor: other work does not count
    assert 0.05 < seconds < 2

    edit("# The demo.\n", "# Only a comment.\n")
    assert repro() == []

    edit("[{kind: embedding, weight: 1.0}]", "[{kind: embedding, weight: 2.0}]")
    assert repro() == ["train-small", "evaluate-small"]
    manifest = project / "artifacts/students/small/manifest.json"
    assert manifest.read_text("utf-8") == "1\n1\n"  # the old one was still there when it ran

    monkeypatch.setattr(versions, "EVALUATE", 2)
    assert sorted(repro()) == ["evaluate-small", "evaluate-tiny"]


def test_dvc_shows_the_metrics_and_the_picture(
    project: Path, repro: Callable[..., list[str]]
) -> None:
    repro("evaluate-small")
    shown = _dvc(project, "metrics", "show").stdout
    assert "reports/small/metrics.json" in shown
    done = _dvc(project, "plots", "show")
    assert done.returncode == 0
    page = (project / "dvc_plots" / "index.html").read_text("utf-8")
    assert 'reports_small_report.svg"' in page


def test_after_a_failure_the_manifest_of_before_is_still_there(
    project: Path, edit: Edit, repro: Callable[..., list[str]]
) -> None:
    repro("tokenize-raw")
    edit("    tokenizer: tokens\n", "    tokenizer: tokens\n    seed: 1\n")
    (project / "fail").touch()
    assert repro("tokenize-raw", code=1) == ["tokenize-raw"]
    assert (project / "artifacts/corpora/raw/manifest.json").is_file()
    (project / "fail").unlink()
    assert repro("tokenize-raw") == ["tokenize-raw"]
    assert repro("tokenize-raw") == []
