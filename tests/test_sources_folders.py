"""A file is a text and its folder the label, for a corpus and for DVC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdpipe.errors import ArtifactError, UsageError
from kdpipe.pipeline import Pipeline
from kdpipe.sources import Folders, Row
from kdpipe.sources import folders as module
from tests.pieces import make_corpus, new_project
from tests.tables import gzip_, write, zstd


def source(*files: str) -> Folders:
    return Folders(kind="folders", files=files)


def refused(root: Path, *files: str) -> str:
    with pytest.raises((ArtifactError, UsageError)) as caught:
        list(source(*files).rows(root))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{root}/", "")


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    write(tmp_path / "train/pos/1_9.txt", "A warm film.<br />Twice as warm.\nAnd long.\r\n")
    write(tmp_path / "train/pos/0_7.txt", "\ufeffGood ☃")
    write(tmp_path / "train/pos/2_8.txt.gz", gzip_(b"Packed.\n"))
    write(tmp_path / "train/neg/3_1.txt.zst", zstd(b" kept as it is "))
    write(tmp_path / "train/neg/4_1.txt", " \n ")
    write(tmp_path / "train/neg/5_1.txt", "")
    write(tmp_path / "train/neg/labels.feat", "no text")
    return tmp_path


def test_each_file_is_a_text_with_its_folder_for_label(reviews: Path) -> None:
    texts = ["Good ☃", "A warm film.<br />Twice as warm.\nAnd long.", "Packed."]
    good = [Row(text, None, "pos") for text in texts]
    bad = [Row(" kept as it is ", None, "neg")]
    assert [*source("train/pos", "train/neg").rows(reviews)] == good + bad
    assert [*source("train").rows(reviews)] == bad + good
    assert [*source("train/p*/*.txt", "train/neg").rows(reviews)] == good[:2] + bad
    assert source("train/pos").paths(reviews) == ["train/pos"]


def test_names_of_folders_are_part_of_the_state(reviews: Path) -> None:
    names = ("train/neg", "train/pos")
    before = source(*names).state(reviews)
    assert source(*names).state(reviews) == before != source(*names[::-1]).state(reviews)
    (reviews / "train/pos").rename(reviews / "train/fine")
    assert source("train/neg", "train/fine").state(reviews) != before


def test_what_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEXT", 10)
    write(tmp_path / "a/one.txt", "just ten !")
    assert [row.label for row in source("a").rows(tmp_path)] == ["a"]
    write(tmp_path / "a/one.txt", "more of it!")
    assert refused(tmp_path, "a") == "a/one.txt: a text has at most 10 bytes: cut it up"
    write(tmp_path / "a/one.txt", b"caf\xe9")
    assert refused(tmp_path, "a") == "a/one.txt: byte 0xe9 is not UTF-8: convert the file"
    write(tmp_path / "b/one.txt.gz", b"no gzip")
    assert refused(tmp_path, "b").startswith("b/one.txt.gz is damaged (")
    write(tmp_path / "b/one.csv", "text\n")
    assert refused(tmp_path, "b/one.csv") == (
        "b/one.csv: unknown format '.csv': allowed: .txt, .txt.gz, .txt.zst"
    )


def test_a_corpus_of_folders(project: Path) -> None:
    for number in range(20):
        write(project / f"imdb/{number % 2}/{number:02}.txt", f"The cat sleeps {number}.")
    spec: dict[str, Any] = {
        "sources": [{"kind": "folders", "files": ["imdb/0", "imdb/1"]}],
        "tokenizer": "tiny",
    }
    place = new_project(project, ["-"], corpora={"text": spec})
    assert isinstance(place.pipeline, Pipeline)
    made = make_corpus(place)
    assert made.facts.labels == ("0", "1")
    assert made.labels(np.arange(20)) == ["0"] * 10 + ["1"] * 10
