"""Data sets of the hub, with a small stand-in for the package that streams them."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from kdpipe.errors import ArtifactError, StorageError, UsageError
from kdpipe.sources import HubDataset, Row
from tests.tables import TABLE

Load = Callable[..., Iterator[dict[str, Any]]]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Load], None]:
    """Puts a small stand-in for the package `datasets` where imports find it."""

    def put(load: Load) -> None:
        package, errors = types.ModuleType("datasets"), types.ModuleType("datasets.exceptions")
        vars(package).update(load_dataset=load, exceptions=errors)
        vars(errors).update(DatasetsError=type("DatasetsError", (Exception,), {}))
        monkeypatch.setitem(sys.modules, "datasets", package)
        monkeypatch.setitem(sys.modules, "datasets.exceptions", errors)

    return put


def test_hub_rows_are_streamed(tmp_path: Path, install: Callable[[Load], None]) -> None:
    calls: list[tuple[Any, ...]] = []
    given_out: list[int] = []

    def load(*names: Any, **options: Any) -> Iterator[dict[str, Any]]:
        calls.append((names, options))
        for number, row in enumerate(TABLE):
            given_out.append(number)
            yield {**row, "extra": object()}

    install(load)
    source = HubDataset(
        kind="hub", dataset="some/set", name="en", split="dev", revision="v1",
        text_pair_column="other", label_column="score",
    )  # fmt: skip
    rows = source.rows(tmp_path)
    assert next(rows) == Row(TABLE[0]["text"], TABLE[0]["other"], 4.5)
    assert given_out == [0]
    assert [*rows] == [Row(row["text"], row["other"], row["score"]) for row in TABLE[1:]]
    options = {"split": "dev", "revision": "v1", "streaming": True}
    assert calls == [(("some/set", "en"), options)]


def test_hub_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError) as caught:
        next(HubDataset(kind="hub", dataset="some/set").rows(tmp_path))
    message = "source hub needs the package 'datasets': pip install 'kdpipe[data]'"
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("Couldn't reach 'some/set'\n on the Hub"), "Couldn't reach 'some/set'"),
        (ValueError("Bad split: trian."), "Bad split: trian."),
        (FileNotFoundError("Dataset 'some/set' doesn't exist"), "Dataset 'some/set' doesn't exist"),
        (RuntimeError("Dataset scripts are no longer supported"),
         "Dataset scripts are no longer supported"),
        (TimeoutError(), "TimeoutError"),
    ],
)  # fmt: skip
def test_hub_that_cannot_be_read(
    tmp_path: Path, install: Callable[[Load], None], error: Exception, reason: str
) -> None:
    def load(*names: Any, **options: Any) -> Iterator[dict[str, Any]]:
        yield TABLE[0]
        raise error

    install(load)
    rows = HubDataset(kind="hub", dataset="some/set", revision="v1").rows(tmp_path)
    assert next(rows) == Row(TABLE[0]["text"])
    with pytest.raises(ArtifactError) as caught:
        next(rows)
    assert str(caught.value) == (
        f"data set some/set, train, revision v1 cannot be read ({reason}): check its names, and"
        " that the hub can be reached"
    )


def test_hub_errors_of_the_package_and_of_the_disk(
    tmp_path: Path, install: Callable[[Load], None]
) -> None:
    def broken(*names: Any, **options: Any) -> Iterator[dict[str, Any]]:
        raise vars(sys.modules["datasets.exceptions"])["DatasetsError"]("no such config")

    def full(*names: Any, **options: Any) -> Iterator[dict[str, Any]]:
        raise OSError(28, "No space left on device")

    source = HubDataset(kind="hub", dataset="some/set", name="en")
    install(broken)
    with pytest.raises(ArtifactError, match=r"^data set some/set, en, train .*\(no such config\)"):
        next(source.rows(tmp_path))
    install(full)
    with pytest.raises(OSError, match="No space left") as caught:
        next(source.rows(tmp_path))
    assert not isinstance(caught.value, StorageError)


def test_hub_rows_are_checked(tmp_path: Path, install: Callable[[Load], None]) -> None:
    source = HubDataset(kind="hub", dataset="some/set")
    install(lambda *names, **options: iter([{"txt": "a", "id": 1}]))
    with pytest.raises(ArtifactError) as caught:
        next(source.rows(tmp_path))
    assert str(caught.value) == (
        "data set some/set, train: row 1: no column 'text': did you mean 'txt'? allowed: txt, id"
    )
    install(lambda *names, **options: iter([{"text": None}]))
    with pytest.raises(ArtifactError) as caught:
        next(source.rows(tmp_path))
    assert str(caught.value) == (
        "data set some/set, train is empty: no row has text; choose another split"
    )


class Tagged(list[dict[str, Any]]):
    """A data set that says what the numbers in its lists of labels stand for."""

    features: ClassVar = {
        "ner_tags": SimpleNamespace(feature=SimpleNamespace(names=["O", "B", "I"]))
    }


def test_hub_numbers_of_tags_get_their_names(
    tmp_path: Path, install: Callable[[Load], None]
) -> None:
    table = [
        {"tokens": ["Old", "Mill"], "ner_tags": [1, 2], "pos": [0, 1]},
        {"tokens": ["Rain"], "ner_tags": None, "pos": [0]},
        {"tokens": ["Now"], "ner_tags": [-1], "pos": [2]},
    ]
    install(lambda *names, **options: Tagged(table))
    tags = HubDataset(kind="hub", dataset="some/set", text_column="tokens", label_column="ner_tags")
    rain = Row("Rain", words=("Rain",))
    words = ("Old", "Mill")
    assert [*tags.rows(tmp_path)] == [
        Row("Old Mill", None, ("B", "I"), words), rain, Row("Now", None, ("-1",), ("Now",))
    ]  # fmt: skip
    plain = tags.model_copy(update={"label_column": "pos"})
    assert [row.label for row in plain.rows(tmp_path)] == [("0", "1"), ("0",), ("2",)]
