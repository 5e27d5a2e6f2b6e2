"""Who finds that nothing is to do waits for no heavy library; each stage in its own process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdpipe import artifact, device, speed
from kdpipe.cli import main, stages
from kdpipe.made_from import cache_wanted
from kdpipe.project import open_project
from kdpipe.report import FILES
from tests.masked import masked_folder
from tests.pieces import sentences, write_text
from tests.test_layers import HEAVY
from tests.tiny import tiny_teacher_folder

Capture = pytest.CaptureFixture[str]

PIPELINE = """
augmentations:
  noisy:
    sources: [{kind: files, files: [text.txt]}]
    methods: [{kind: perturb, steps: [{kind: masking}]}]
  filled:
    sources: [{kind: files, files: [few.txt]}]
    methods: [{kind: masked_lm, model: bert}]
corpora:
  text:
    sources: [{kind: files, files: [text.txt]}]
    tokenizer: tiny
    validation: 0.1
  words:
    sources: [{kind: files, files: [text.txt]}]
    tokenizer: {kind: words}
    validation: 0.1
teachers:
  tiny: {model: teacher}
caches:
  said: {corpus: text, teacher: tiny, targets: [{kind: embedding}]}
  mine: {corpus: text, files: [{part: embedding, file: mine.npy}]}
students:
  small:
    caches: [said]
    model: {kind: teacher_layers, layers: [1, 2]}
    objectives: [{kind: embedding, loss: cosine}]
    train: {max_steps: 2, tokens_per_batch: 512}
  started:
    caches: [mine]
    model: {kind: checkpoint, model: start}
    objectives: [{kind: embedding, loss: similarity}]
    train: {max_steps: 2, tokens_per_batch: 512}
"""
MADE = {
    "augment": ["artifacts/texts/noisy", "artifacts/texts/filled"],
    "tokenize": ["artifacts/corpora/text", "artifacts/corpora/words"],
    "cache-teacher": ["artifacts/caches/said", "artifacts/caches/mine"],
    "train": ["artifacts/students/small", "artifacts/students/started"],
    "evaluate": ["reports/small", "reports/started"],
}
CHILD = """
import json, sys
from kdpipe.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with all kinds of caches, corpora and texts, of which everything is made."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quickly(patch)
        write_text(folder / "text.txt", sentences(60))
        write_text(folder / "few.txt", sentences(3))
        tiny_teacher_folder(folder / "teacher")
        tiny_teacher_folder(folder / "start", seed=3)
        masked_folder(folder / "bert")
        values = np.random.default_rng(0).normal(size=(60, 32))
        np.save(folder / "mine.npy", values.astype(np.float32))
        (folder / "p.yaml").write_text(PIPELINE)
        for stage in MADE:
            assert main([stage, "p.yaml"]) == 0
    return folder


def quickly(patch: pytest.MonkeyPatch) -> None:
    """Measure speed with next to nothing."""
    for name in ("ROUNDS", "FEWEST_ROUNDS", "MOST_SINGLES", "FEWEST_SINGLES"):
        patch.setattr(speed, name, 1)
    for name in ("MOST_ROWS", "FEWEST_ROWS", "MOST_PROBED"):
        patch.setattr(speed, name, 4)


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its own, which is the current folder."""
    folder = shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(folder)
    return folder


def child(folder: Path, *words: str) -> tuple[int, set[str], str]:
    """Exit code, libraries that were imported, and what was said."""
    command = [sys.executable, "-c", CHILD, *words]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    code, loaded = json.loads(ended.stdout.splitlines()[-1])
    return code, set(loaded), ended.stderr


@pytest.mark.parametrize("stage", MADE)
def test_what_is_up_to_date_loads_nothing_heavy(made: Path, stage: str) -> None:
    code, loaded, told = child(made, stage, "p.yaml")
    assert (code, told.splitlines()) == (0, [f"{one}: up to date" for one in MADE[stage]])
    assert loaded & HEAVY == set()
    assert {"kdpipe", "pydantic"} < loaded


@pytest.mark.parametrize("stage", [*stages()])
def test_help_loads_nothing_heavy(made: Path, stage: str) -> None:
    code, loaded, told = child(made, stage, "--help")
    assert (code, told) == (0, "")
    assert loaded & {*HEAVY, "numpy", "pyarrow", "pydantic"} <= {"pydantic"}


def test_without_what_is_kept_of_tokenizers_they_are_loaded_and_kept_again(
    here: Path, capsys: Capture
) -> None:
    kept = {path: path.read_bytes() for path in (here / ".kdpipe/tokenizers").iterdir()}
    assert len(kept) == 3
    shutil.rmtree(here / ".kdpipe/tokenizers")
    for stage in ("augment", "tokenize"):
        assert main([stage, "p.yaml"]) == 0
    told = [f"{one}: up to date" for one in (*MADE["augment"], *MADE["tokenize"])]
    assert capsys.readouterr().err.splitlines() == told
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_report_is_measured_again_only_where_something_is_another(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickly(monkeypatch)
    report, card = here / "reports/small", here / "artifacts/students/small/README.md"
    old = "max_steps: 2, tokens_per_batch: 512}\n"
    task = PIPELINE.replace(old, f"{old}    evaluate: [{{kind: similarity, file: pairs.tsv}}]\n", 1)
    pairs = here / "pairs.tsv"
    pairs.write_text("sentence1\tsentence2\tscore\na\tb\t1\nc\td\t2\ne\tf\t3\n")
    changes: dict[str, Callable[[], object]] = {
        "a file is gone": (report / "table.tsv").unlink,
        "a file is another": lambda: (report / "metrics.json").write_text("{}"),
        "the card has no table": lambda: card.write_text("# small\n"),
        "nobody knows of what it is": lambda: shutil.rmtree(here / ".kdpipe/reports"),
        "another task": lambda: (here / "p.yaml").write_text(task),
        "another file of a task": lambda: pairs.write_text(pairs.read_text() + "g\th\t0\n"),
        "another student": lambda: retrain(here, task),
    }
    for what, change in changes.items():
        change()
        told = []
        for _ in range(2):
            capsys.readouterr()
            assert main(["evaluate", "p.yaml", "small"]) == 0
            told.append("reports/small: up to date\n" in capsys.readouterr().err)
        assert told == [False, True], what
        assert {path.name for path in report.iterdir()} == {*FILES}
        assert "| small |" in card.read_text(), what


def retrain(folder: Path, text: str) -> None:
    """Make another student of the same name."""
    (folder / "p.yaml").write_text(text.replace("max_steps: 2", "max_steps: 3", 1))
    assert main(["train", "p.yaml", "small"]) == 0


def test_auto_is_what_it_was_when_the_cache_was_made(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = cache_wanted(open_project(Path("p.yaml")), "said")
    mine, other = wanted.finished_in(), {"fp32": "bf16", "bf16": "fp32"}
    assert mine in other
    monkeypatch.setattr(device, "pick_dtype", lambda asked, where: other[mine])
    before = (here / "artifacts/caches/said/manifest.json").read_bytes()
    for words in ([], ["--verify"]):
        assert main(["cache-teacher", "p.yaml", "said", *words]) == 0
        assert (here / "artifacts/caches/said/manifest.json").read_bytes() == before
    told = capsys.readouterr().err
    assert "artifacts/caches/said: up to date\n" in told
    assert "0 of them new: the teacher read 0 of 60 rows" in told
    # Where there is work, the machine decides.
    write_text(here / "text.txt", sentences(61))
    assert main(["tokenize", "p.yaml", "text"]) == 0
    assert main(["cache-teacher", "p.yaml", "said"]) == 0
    manifest, _ = artifact.open_finished(wanted.folder, "kdpipe.cache", "")
    assert manifest.inputs["dtype"] == other[mine]


@pytest.mark.parametrize("asked", ["fp32", "bf16", "fp16"])
def test_a_dtype_that_is_asked_for_is_no_other(here: Path, asked: str) -> None:
    mine = cache_wanted(open_project(Path("p.yaml")), "said").finished_in()
    said = PIPELINE.replace("teacher: tiny, t", f"teacher: tiny, dtype: {asked}, t")
    (here / "p.yaml").write_text(said)
    wanted = cache_wanted(open_project(Path("p.yaml")), "said")
    assert wanted.finished_in() is None
    manifest, _ = artifact.open_finished(wanted.folder, "kdpipe.cache", "")
    spec = manifest.spec | {"dtype": asked}
    artifact.finish(wanted.folder, manifest.model_copy(update={"spec": spec}))
    assert wanted.finished_in() == (asked if asked == mine else None)


def test_what_a_project_opened_is_opened_again_only_once_it_is_another(here: Path) -> None:
    place = open_project(Path("p.yaml"))
    corpus = place.corpus("text")
    cache = place.cache("said", corpus)
    assert place.corpus("text") is corpus
    assert place.cache("said", corpus) is cache
    assert place.inputs("small") == (corpus, {"said": cache})
    write_text(here / "text.txt", sentences(61))
    for stage in ("tokenize", "cache-teacher"):
        assert main([stage, "p.yaml"]) == (0 if stage == "tokenize" else 3)
    again = place.corpus("text")
    assert (again.facts.rows, corpus.facts.rows) == (61, 60)
    assert place.cache("said", again).facts.rows == 61
