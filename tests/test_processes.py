"""Several processes make what one makes, and end as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from kdpipe.project import Project
from tests.pieces import make_cache, make_corpus, new_project, sentences

CACHE = {"corpus": "text", "teacher": "tiny", "dtype": "fp32"}


def write_pipeline(root: Path, **sections: Any) -> Project:
    """The file of a small project, as JSON, which YAML understands."""
    place = new_project(root, sentences(400), **sections)
    kept = place.pipeline.model_dump(mode="json")
    (root / "pipeline.yaml").write_text(json.dumps(kept), "utf-8")
    return place


def kdpipe(*words: str, store: str = "store") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"KDPIPE_STORE": store, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "kdpipe", *words]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=120, check=False
    )


def test_two_processes_read_what_one_reads(project: Path) -> None:
    place = write_pipeline(project, caches={"said": CACHE | {"targets": [{"kind": "embedding"}]}})
    alone = make_cache(place, make_corpus(place))[0]
    shards = [file.digest for file in alone.manifest.files]
    done = kdpipe("cache-teacher", "pipeline.yaml", "--verify", "--processes", "2", store="other")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the teacher read 400 of 400 rows in fp32") == 1
    assert [file.digest for file in place.cache("said", alone.corpus).manifest.files] == shards


def test_an_error_of_all_is_told_once(project: Path) -> None:
    write_pipeline(project)
    done = kdpipe("cache-teacher", "pipeline.yaml", "--processes", "2")
    assert done.returncode == 3
    assert done.stderr.count("kdpipe: error:") == 1, done.stderr
