"""A folder is finished, current and whole, or it is not, for each reason by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdpipe import artifact, io
from kdpipe.errors import ArtifactError

KIND = "kdpipe.texts"
SPEC: dict[str, Any] = {"files": ["a.txt"], "seed": 1}
INPUTS = {"source.0": "of the text"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished folder of two files."""
    made = tmp_path / "made"
    for name, data in {"one": b"1234", "sub/two": b"abcdef"}.items():
        io.make_folder((made / name).parent)
        io.write_file(made / name, data)
    artifact.finish(
        made,
        artifact.Manifest(
            format=KIND,
            version=artifact.VERSIONS[KIND],
            spec=SPEC,
            inputs=INPUTS,
            facts={},
            files=tuple(artifact.part(made, name) for name in ("one", "sub/two")),
        ),
    )
    return made


def is_current(folder: Path, *, spec: Any = None, inputs: Any = None, verify: bool = False) -> bool:
    return artifact.is_current(folder, KIND, spec or SPEC, inputs or INPUTS, verify=verify)


def test_a_finished_folder_is_current_for_its_section_and_its_inputs_alone(folder: Path) -> None:
    assert is_current(folder)
    assert is_current(folder, verify=True)
    assert not is_current(folder, spec=SPEC | {"seed": 2})
    assert not is_current(folder, inputs={"source.0": "of another text"})
    assert not is_current(folder.parent)


@pytest.mark.parametrize("data", [b"", b"123", b"12345", None])
def test_a_file_of_another_size_is_seen_without_reading_it(
    folder: Path, data: bytes | None
) -> None:
    (folder / "one").unlink()
    if data is not None:
        (folder / "one").write_bytes(data)
    assert not is_current(folder)


def test_another_byte_is_seen_by_reading(folder: Path) -> None:
    manifest, _ = artifact.open_finished(folder, KIND, "make it again")
    first, second = manifest.files
    (folder / "sub/two").write_bytes(b"abcdeF")
    assert artifact.check(folder, first, "make it again") == folder / "one"
    with pytest.raises(ArtifactError) as caught:
        artifact.check(folder, second, "make it again")
    assert str(caught.value) == (
        f"{folder / 'sub/two'} is damaged (digest differs from the manifest): make it again"
    )
    assert is_current(folder)
    assert not is_current(folder, verify=True)


def test_what_is_written_again_is_unfinished_until_it_ends(folder: Path) -> None:
    artifact.unfinish(folder)
    assert not is_current(folder)
    with pytest.raises(ArtifactError, match="is not finished: make it again"):
        artifact.open_finished(folder, KIND, "make it again")
    artifact.unfinish(folder)
