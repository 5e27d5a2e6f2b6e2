"""Artifacts that an earlier kdpipe wrote are read value by value; those of a later one, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from kdpipe import artifact, records
from kdpipe.cache import Cache, open_cache
from kdpipe.corpus import Corpus, open_corpus
from kdpipe.errors import ArtifactError
from kdpipe.load import load_encoder
from kdpipe.modules import head_of
from kdpipe.tokenizer import load_tokenizer
from tests import golden
from tests.conftest import Figure
from tests.golden import FOLDER, KINDS

EXPECTED: dict[str, Any] = json.loads(golden.EXPECTED.read_bytes())


@pytest.fixture
def corpus() -> Corpus:
    return open_corpus(FOLDER / "corpus")


@pytest.fixture
def cache(corpus: Corpus) -> Cache:
    return open_cache(FOLDER / "cache", corpus)


def test_they_are_small_and_of_today() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 200_000
    for kind in KINDS:
        record = records.read_sealed(FOLDER / kind / artifact.MANIFEST)
        assert record["version"] == artifact.VERSIONS[record["format"]]
    assert golden.expected(FOLDER) == EXPECTED


def test_the_corpus(corpus: Corpus) -> None:
    assert corpus.digest == EXPECTED["digests"]["corpus"]
    rows = corpus.gather(np.arange(corpus.facts.rows))
    found = np.split(rows.ids, np.cumsum(rows.lengths)[:-1])
    assert [ids.tolist() for ids in found] == EXPECTED["ids"]
    assert corpus.held_out.tolist() == EXPECTED["held_out"]


def test_the_cache(cache: Cache) -> None:
    assert cache.digest == EXPECTED["digests"]["cache"]
    rows, per_block = np.arange(cache.facts.rows), len(cache.facts.questions)
    assert len(cache.manifest.files) == per_block
    for question, file in zip(cache.facts.questions, cache.manifest.files, strict=True):
        found = cache.read(rows, frozenset({question.what}))[question.what]
        assert found[:3].tolist() == EXPECTED["shards"][file.name], question.name
    assert {question.storage for question in cache.facts.questions} == {*golden.STORAGES}


def test_the_student() -> None:
    manifest, digest = artifact.open_finished(FOLDER / "student", "kdpipe.student", "")
    assert digest == EXPECTED["digests"]["student"]
    for file in manifest.files:
        artifact.check(FOLDER / "student", file, "")
    weights = load_file(FOLDER / "student" / "model.safetensors")
    found = {name: float(values.sum()) for name, values in weights.items()}
    assert found == pytest.approx(EXPECTED["weights"], abs=1e-4)
    load_encoder(FOLDER / "student", head_of(FOLDER / "student"))
    tokenizer = load_tokenizer(FOLDER / "student")
    assert tokenizer.fingerprint == open_corpus(FOLDER / "corpus").facts.tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_versions_and_formats_of_tomorrow_are_refused(
    tmp_path: Path, figure: Figure, kind: str
) -> None:
    folder = tmp_path / kind
    shutil.copytree(FOLDER / kind, folder)
    path = folder / artifact.MANIFEST
    record = records.read_sealed(path)
    name, version = record["format"], record["version"]
    for found, advice in ((version + 1, "update kdpipe"), (version - 1, "run 'it again'")):
        path.write_bytes(records.seal(json.dumps(record | {"version": found}).encode()))
        with pytest.raises(ArtifactError) as caught:
            artifact.open_finished(folder, name, "run 'it again'")
        assert str(caught.value) == (
            f"{folder} has version {found} of {name}, this kdpipe reads version {version}: {advice}"
        )
    path.write_bytes(records.seal(json.dumps(record | {"format": "kdpipe.dream"}).encode()))
    with pytest.raises(ArtifactError) as caught:
        artifact.open_finished(folder, name, "run 'it again'")
    assert str(caught.value) == f"{folder} is a kdpipe.dream, not a {name}: run 'it again'"
    # A key more is no version: it would be left out of what is checked.
    path.write_bytes(records.seal(json.dumps(record | {"more": 1}).encode()))
    with pytest.raises(ArtifactError, match="is damaged"):
        artifact.open_finished(folder, name, "run 'it again'")
    figure(f"{name} {version - 1}, {version + 1}, and an unknown format: refused")
