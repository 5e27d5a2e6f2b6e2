"""A file is changed by someone else while a stage reads it: nothing that came of it is kept.

What is changed stays readable: the last page of a file that is cut reads as zeros, what is written
into a file stands in the memory of who has mapped it.
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdpipe import evaluate, fill_blocks, job, known_rows, load, passes, vector_files
from kdpipe.artifact import MANIFEST
from kdpipe.augment import write
from kdpipe.corpus import open_corpus
from kdpipe.errors import ArtifactError
from kdpipe.mapped import Mapped
from tests.ends import FILE, Capture, command, edit, fails
from tests.pieces import sentences, write_text

CORPUS, CACHE = Path("artifacts/corpora/text"), Path("artifacts/caches/said")
STUDENT = Path("artifacts/students/small")
WEIGHTS = Path("teacher/model.safetensors")
Change = Callable[[Path], None]


def cut(path: Path) -> None:
    """Of the last page a part is gone, which reads as zeros."""
    size = path.stat().st_size
    os.truncate(path, size - min(size % mmap.PAGESIZE, 64))


def written_into(path: Path) -> None:
    """One bit."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


CHANGES = (cut, written_into)


@pytest.fixture(autouse=True)
def _in_the_project(here: Path) -> None:
    edit("save_steps: 500", "save_steps: 4")


def as_it_runs(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, change: Callable[[], None]
) -> None:
    """Change a file once, right after a function of a module was called for the first time."""
    function, done = getattr(module, name), list[bool]()

    def then(*given: Any, **named: Any) -> Any:
        found = function(*given, **named)
        if not done:
            done.append(True)
            change()
        return found

    monkeypatch.setattr(module, name, then)


def first(pattern: str) -> Path:
    return sorted(Path().glob(pattern))[0]


def receipts() -> set[Path]:
    return {*Path(".kdpipe/store").glob("??/*.json")}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("pattern", [f"{CORPUS}/*.arrow", f"{CACHE}/*.safetensors"])
def test_a_training_saves_nothing_of_it(
    pattern: str, change: Change, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    train, path = ["train", str(FILE)], first(pattern)
    command(train)
    expected = (STUDENT / "model.safetensors").read_bytes()
    shutil.rmtree(STUDENT)
    data = path.read_bytes()
    with monkeypatch.context() as patch:
        as_it_runs(patch, job, "_note", lambda: change(path))
        capsys.readouterr()
        assert fails(capsys, train, 3).startswith(f"{path} is ")
    assert not [*Path().glob(".kdpipe/runs/*/step-*")]
    assert not (STUDENT / MANIFEST).exists()
    path.unlink()
    path.write_bytes(data)
    command(train)
    assert (STUDENT / "model.safetensors").read_bytes() == expected


@pytest.mark.parametrize("change", CHANGES)
def test_a_teacher_keeps_no_answer_to_it(
    change: Change, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    shutil.rmtree(".kdpipe/store")
    shutil.rmtree(CACHE)
    path = first(f"{CORPUS}/*.arrow")
    as_it_runs(monkeypatch, passes, "observe", lambda: change(path))
    assert fails(capsys, ["cache-teacher", str(FILE)], 3).startswith(f"{path} is ")
    assert not receipts()


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_known_is_not_copied_from_it(
    change: Change, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    before, path = receipts(), first(f"{CACHE}/*.safetensors")
    write_text(Path("text.txt"), ["A new one.", *sentences(400)])
    command(["tokenize", str(FILE)])
    capsys.readouterr()
    with monkeypatch.context() as patch:
        as_it_runs(patch, known_rows, "gather", lambda: change(path))
        assert fails(capsys, ["cache-teacher", str(FILE)], 3).startswith(f"{path} is ")
    assert receipts() == before
    command(["cache-teacher", str(FILE)])


def test_another_teacher_in_place_of_the_one_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    shutil.rmtree(".kdpipe/store")
    shutil.rmtree(CACHE)
    as_it_runs(monkeypatch, load, "transformer_folder", lambda: written_into(WEIGHTS))
    found = fails(capsys, ["cache-teacher", str(FILE)], 3)
    assert found == f"{WEIGHTS.parent} was changed while it was read: run the same command again"
    assert not receipts()


def test_another_teacher_as_a_training_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    as_it_runs(monkeypatch, load, "transformer_folder", lambda: written_into(WEIGHTS))
    found = fails(capsys, ["train", str(FILE)], 3)
    assert found.startswith(f"{CACHE} was made before the pipeline file or its inputs changed (")
    assert not (STUDENT / MANIFEST).exists()


def test_weights_are_those_that_were_read() -> None:
    """A teacher's files may be written into as it speaks; its own memory they do not reach."""
    from kdpipe.modules import head_of

    encoder = load.load_encoder(Path("teacher"), head_of(Path("teacher")))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    size = WEIGHTS.stat().st_size
    with WEIGHTS.open("r+b") as file:
        file.write(bytes(size))
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("pattern", [f"{CORPUS}/*.arrow", f"{CACHE}/*.safetensors"])
def test_a_report_is_not_written_of_it(
    pattern: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    edit("    train: {max_steps: 40", "    evaluate: [{kind: fidelity}]\n    train: {max_steps: 40")
    command(["train", str(FILE)])
    capsys.readouterr()
    path = first(pattern)
    as_it_runs(monkeypatch, evaluate, "measure", lambda: cut(path))
    assert fails(capsys, ["evaluate", str(FILE)], 3).startswith(f"{path} is ")
    assert not Path("reports/small").exists()


def test_text_that_changes(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    before = (CORPUS / MANIFEST).read_bytes()
    text = Path("text.txt")
    write_text(text, sentences(300))
    as_it_runs(monkeypatch, fill_blocks, "read_rows", lambda: write_text(text, sentences(350)))
    found = fails(capsys, ["tokenize", str(FILE)], 3)
    assert found == "the text of source.0 was changed while it was read: run the same command again"
    assert (CORPUS / MANIFEST).read_bytes() == before


def test_text_that_changes_as_it_is_augmented(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with FILE.open("a") as file:
        file.write(
            "augmentations:\n  more:\n    sources: [{kind: files, files: [text.txt]}]\n"
            "    methods: [{kind: perturb, steps: [{kind: masking, probability: 0.3}]}]\n"
        )
    text = Path("text.txt")
    as_it_runs(monkeypatch, write, "copies", lambda: write_text(text, sentences(350)))
    found = fails(capsys, ["augment", str(FILE)], 3)
    assert found.startswith("source.0 of the texts was changed while it was read: ")
    assert not Path("artifacts/texts/more", MANIFEST).exists()


def test_an_imported_file_that_changes(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    before, path = receipts(), Path("said.npy")
    file = f"{{file: {path}, part: embedding}}"
    np.save(path, np.ones((open_corpus(CORPUS).facts.rows, 8), np.float32))
    edit("    teacher: tiny\n", "")
    edit("    targets: [{kind: embedding, storage: fp32}]\n", f"    files: [{file}]\n")
    edit("    dtype: fp32\n", "")
    edit("{kind: teacher_layers, layers: [1]}", "{kind: shape, num_hidden_layers: 1}")
    as_it_runs(monkeypatch, vector_files, "_npy", lambda: written_into(path))
    found = fails(capsys, ["cache-teacher", str(FILE)], 3)
    assert found == f"{path} was changed while it was read: run the same command again"
    assert receipts() == before


def test_a_file_is_looked_at_again_only_where_it_was_written_into(tmp_path: Path) -> None:
    path, looked = tmp_path / "x", list[str]()
    path.write_bytes(b"one")
    os.utime(path, ns=(0, 0))
    mapped = Mapped()

    def check() -> None:
        looked.append(path.read_text())
        if looked[-1] != "one":
            raise ArtifactError("another")

    mapped.note(check, path)
    mapped.refuse_changed()
    assert looked == ["one"]
    path.touch()
    mapped.refuse_changed()
    mapped.refuse_changed(path)
    assert looked == ["one", "one"]
    with path.open("r+b") as file:
        file.write(b"two")
    os.utime(path, ns=(1, 1))
    with pytest.raises(ArtifactError):
        mapped.refuse_changed()


@pytest.mark.parametrize("replaced", [False, True])
def test_another_file_of_that_name_is_no_change(tmp_path: Path, replaced: bool) -> None:
    path, mapped = tmp_path / "x", Mapped()
    path.write_bytes(b"one")
    mapped.note(lambda: None if path.read_bytes() == b"one" else pytest.fail("read again"), path)
    kept = path.open("rb")  # else its inode may be given again
    path.unlink()
    if replaced:
        path.write_bytes(b"other")
    mapped.refuse_changed()
    kept.close()
