"""The example in the help of every command, run as it stands there, in a small project."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdpipe import cli
from tests.tiny import SENTENCES, tiny_teacher_folder

PIPELINE = """\
augmentations:
  noisy:
    sources: [{kind: files, files: [my.txt]}]
    methods: [{kind: perturb, steps: [{kind: deleting}]}]
    copies: 1
corpora:
  docs:
    sources: [{kind: files, files: [my.txt]}]
    tokenizer: minilm
    validation: 0.3
teachers:
  minilm: {model: models/minilm}
caches:
  docs-minilm: {corpus: docs, teacher: minilm, targets: [{kind: embedding}], dtype: fp32}
students:
  small:
    caches: [docs-minilm]
    model: {kind: teacher_layers, layers: [1]}
    objectives: [{kind: embedding, loss: cosine}]
    train: {max_steps: 4, tokens_per_batch: 256, bf16: false}
    evaluate: [{kind: fidelity}]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder, now the current one, that has what the examples name."""
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    hook = sys.excepthook
    monkeypatch.chdir(tmp_path)
    os.environ.update(COLUMNS="200", TERM="dumb", NO_COLOR="1", HOME=str(tmp_path))
    os.environ["DVC_SITE_CACHE_DIR"] = str(tmp_path / ".site")
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "demo.yaml").write_text(PIPELINE, "utf-8")
    (tmp_path / "my.txt").write_text("\n".join(SENTENCES), "utf-8")
    tiny_teacher_folder(tmp_path / "models" / "minilm")
    yield tmp_path
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGTERM, handler)
    sys.excepthook = hook


def _example(stage: str) -> list[str]:
    text = inspect.getdoc(cli.stages()[stage].load()) or ""
    (line,) = re.findall(r"^Example: kdpipe (.+)$", text, re.MULTILINE)
    words = shlex.split(line)
    assert words[0] == stage
    return words


def test_every_example_works(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = {
        "augment": "artifacts/texts/noisy/manifest.json",
        "tokenize": "artifacts/corpora/docs/manifest.json",
        "cache-teacher": "artifacts/caches/docs-minilm/manifest.json",
        "train": "artifacts/students/small/model.safetensors",
        "evaluate": "reports/small/metrics.json",
        "predict": "vectors.npy",
    }
    for stage, path in made.items():
        words = _example(stage)
        assert cli.main(words) == 0, capsys.readouterr().err
        if "--dry-run" in words:
            assert not (project / path).exists()
            words.remove("--dry-run")
            assert cli.main(words) == 0, capsys.readouterr().err
        assert (project / path).is_file()
    assert cli.main(_example("parameters")) == 0
    assert "word_embeddings" in capsys.readouterr().out
    assert cli.main(_example("verify")) == 0
    assert "ok artifacts/corpora/docs: " in capsys.readouterr().out
    assert cli.main(_example("inspect")) == 0
    assert "embedding" in capsys.readouterr().out
    assert cli.main(_example("cache")) == 0
    assert "docs-minilm" in capsys.readouterr().out
    assert cli.main(_example("init")) == 0
    assert (project / "pipeline.yaml").is_file()
    (project / "pipeline.yaml").unlink()
    capsys.readouterr()

    # What was made by hand is told to DVC, so that repro has nothing left to run.
    words = _example("repro")
    dvc = [sys.executable, "-m", "dvc"]
    _write_dvc_yaml(project)
    subprocess.run([*dvc, "init", "-q", "--no-scm"], check=True)
    subprocess.run([*dvc, "commit", "-q", "-f"], check=True)
    assert cli.main(words) == 0
    assert "small" in capsys.readouterr().out


def _write_dvc_yaml(project: Path) -> None:
    from kdpipe.dvc import dvc_yaml
    from kdpipe.pipeline import load_pipeline

    path = project / "pipelines" / "demo.yaml"
    (project / "dvc.yaml").write_text(dvc_yaml(load_pipeline(path), path, project), "utf-8")
