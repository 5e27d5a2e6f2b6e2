"""A shard of another shape is refused, also where all digests are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from kdpipe import artifact, cache
from kdpipe.errors import ArtifactError
from tests.pieces import make_cache, make_corpus, new_project, sentences

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.mark.parametrize("change", ["fewer", "narrower", "other type", "other name"])
def test_a_shard_of_another_shape(project: Path, change: str) -> None:
    place = new_project(project, sentences(60))
    corpus = make_corpus(place)
    made, _ = make_cache(place, corpus)
    first, *others = made.manifest.files
    values = load_file(made.folder / first.name)["values"]
    rows, width = values.shape
    tensors = {
        "fewer": {"values": values[:-1]},
        "narrower": {"values": values[:, :-1].contiguous()},
        "other type": {"values": values.to(torch.float16)},
        "other name": {"vectors": values},
    }[change]
    (made.folder / first.name).unlink()
    (made.folder / first.name).write_bytes(save(tensors))
    again = artifact.part(made.folder, first.name)
    manifest = made.manifest.model_copy(update={"files": (again, *others)})
    artifact.finish(made.folder, manifest)
    opened = cache.open_cache(made.folder, corpus)
    with pytest.raises(ArtifactError) as caught:
        opened.read(np.arange(corpus.facts.rows), opened.provides)
    path = made.folder / first.name
    assert str(caught.value).startswith(f"{path} has ")
    assert f"[{rows}, {width}]" in str(caught.value).partition("expected")[2]
    assert str(caught.value).endswith("run 'kdpipe cache-teacher' with --verify")
