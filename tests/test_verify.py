"""`kdpipe verify`: what is sound passes, whatever it is; each damage is named, with its file."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdpipe import cli
from kdpipe.errors import ArtifactError
from kdpipe.verify import verify
from tests import every_kind, small, vectors
from tests.conftest import Figure
from tests.ends import Capture, command
from tests.sealed import (
    ALL,
    CACHE,
    CORPUS,
    REMEDY,
    STUDENT,
    TEXTS,
    first,
    found,
    record_of,
    seal,
    write,
)

PUT_BACK = "make it again, or put back what was there"


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()[:12]


def test_a_sound_project_is_told_line_by_line(whole: Path, capsys: Capture) -> None:
    command(["verify", "."])
    out, err = capsys.readouterr()
    inputs = {folder: record_of(folder)["inputs"] for folder in ALL}
    lines = []
    for folder in ALL:
        files = {part["name"]: part["bytes"] for part in record_of(folder)["files"]}
        size = f"{sum(files.values()) / 1000:.3g} kB"
        lines.append(f"ok {folder}: {len(files)} files, {size}, 0:00.x")
        if folder == CACHE:
            teacher = inputs[CACHE]["teacher"][:12]
            lines.append(f"  not here, so not checked: teacher of {CACHE} ({teacher})")
    assert re.sub(r"\d:\d\d\.\d$", "0:00.x", out, flags=re.MULTILINE).splitlines() == lines
    assert err.startswith("verify: 100% ")
    command(["verify", str(STUDENT)])
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if "ok" in line] == [
        f"{folder}:" for folder in ALL
    ]


@pytest.mark.parametrize("where", ["artifacts", "artifacts/caches", str(CACHE)])
def test_a_folder_is_all_that_is_in_it_and_what_that_was_made_from(whole: Path, where: str) -> None:
    some = ALL if where == "artifacts" else ALL[:3]
    assert [one.folder for one in verify([Path(where)])] == some
    os.chdir(where)
    up = Path(os.path.relpath(whole))
    names = [os.path.relpath(whole / folder) for folder in some]
    assert [os.path.relpath(one.folder) for one in verify([Path()])] == names, up


def test_all_that_the_stages_make_is_sound(project: Path) -> None:
    every_kind.make(project)
    assert found() == {}
    names = {one.folder.name for one in verify([Path()])}
    assert names == {"text", "pairs", "words", *every_kind.STORAGES, "s"}


def test_words_and_masked_tokens_are_sound(project: Path) -> None:
    masked: dict[str, Any] = {
        "corpora": {"masked": {"sources": [{"kind": "files", "files": ["text.txt"]}]}}
    }
    masked["corpora"]["masked"] |= {"tokenizer": "tiny", "mlm_probability": 0.15}
    held_out = {"validation_sources": [{"kind": "files", "files": ["text.txt"]}]}
    apart = {"sources": [{"kind": "files", "files": ["reviews.tsv"]}], "tokenizer": "tiny"}
    masked["corpora"]["apart"] = {**apart, **held_out}
    small.write(project, {}, **masked)
    command(["tokenize", "p.yaml"])
    command(["cache-teacher", "p.yaml"])
    assert found() == {}
    assert len([*verify([Path()])]) == 8


@pytest.mark.parametrize("folder", ALL, ids=lambda folder: folder.parent.name)
def test_damaged_parts_are_named(whole: Path, folder: Path) -> None:
    path, remedy = first(folder), REMEDY[folder]
    data = path.read_bytes()
    write(path, bytes([data[0] ^ 4]) + data[1:])
    line = f"{path} is damaged (digest differs from the manifest): {remedy}"
    assert line in found(folder)[folder]
    for cut in (data[:-1], data + b"\0"):
        write(path, cut)
        line = f"{path} is missing or cut short ({len(data)} bytes expected): {remedy}"
        assert line in found(folder)[folder]
    path.unlink()
    assert line in found(folder)[folder]
    write(path, data)
    if folder in {TEXTS, CORPUS}:  # others read links
        assert found(folder) == {}
    extra = path.with_name(f"more{path.suffix}")
    extra.write_bytes(b"x")
    assert found(folder)[folder][-1] == f"{extra} is not in the manifest: delete it"
    extra.unlink()
    for name in (".tmp-1-2-3", ".gitignore", "README.md"):
        (folder / name).write_text("x")
    lines = found(folder).get(folder, [])
    readme = [] if folder == STUDENT else [f"{folder}/README.md is not in the manifest: delete it"]
    assert lines == readme


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"{", "{0}/manifest.json is damaged (Expecting property name enclosed in double quotes:"
         " line 1 column 2 (char 1)): delete {0}, then run the stage that makes it"),
        (None, "{0} is not finished: run the stage that makes it"),
        (("version", 99), "{0} has version 99 of {1}, this kdpipe reads version {2}: update"
         " kdpipe"),
        (("format", "kdpipe.pie"), "{0} is a 'kdpipe.pie', none that this kdpipe knows: run the"
         " stage that makes it"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("folder", ALL, ids=lambda folder: folder.parent.name)
def test_manifests_that_cannot_be_read(whole: Path, folder: Path, data: Any, line: str) -> None:
    record = record_of(folder)
    wanted = line.format(folder, record["format"], record["version"])
    if data is None:
        (folder / "manifest.json").unlink()
    elif isinstance(data, bytes):
        write(folder / "manifest.json", data)
    else:
        seal(folder, lambda record: record.update([data]))
    problems = found()
    assert problems[folder] == [wanted]
    # What was made from it is told, too: what stands in its place now is not it.
    later = {TEXTS: [], CORPUS: [CACHE], CACHE: [STUDENT], STUDENT: []}[folder]
    if data is not None:
        assert {*problems} == {folder, *later}


def test_all_problems_are_listed_and_the_exit_code_is_3(whole: Path, capsys: Capture) -> None:
    for folder in (CORPUS, CACHE):
        for path in folder.glob("*-*"):
            write(path, path.read_bytes()[:-1] + b"?")
    assert cli.main(["verify", "."]) == 3
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == ["ok", "BAD", "BAD", "ok"]
    counts = {folder: len({*folder.glob("*-*")}) for folder in (CORPUS, CACHE)}
    for folder, count in counts.items():
        assert sum(line.startswith(f"  {folder}/") for line in lines) == count > 1
    assert err.splitlines()[-1] == (
        f"kdpipe: error: {sum(counts.values())} mistakes in 2 of 4 artifacts: each line above says"
        " what to do"
    )


def test_the_chain_breaks_where_something_was_made_anew(whole: Path) -> None:
    old = {folder: digest(folder) for folder in ALL}
    with Path("text.txt").open("a") as file:
        file.write("One more row.\n")
    source = f"source.0 (text.txt) is not what it was made from: {PUT_BACK}"
    both = f"source.0 (artifacts/texts/noisy, text.txt) is not what it was made from: {PUT_BACK}"
    assert found() == {TEXTS: [f"{TEXTS}: {source}"], CORPUS: [f"{CORPUS}: {both}"]}
    command(["augment", "pipeline.yaml"])
    command(["tokenize", "pipeline.yaml"])
    was, now = "was made from another", {folder: digest(folder) for folder in ALL}
    assert found(STUDENT) == {
        CACHE: [
            f"{CACHE} {was} corpus ({old[CORPUS]}) than {CORPUS} is ({now[CORPUS]}): {PUT_BACK}"
        ]
    }
    command(["cache-teacher", "pipeline.yaml"])
    new = digest(CACHE)
    assert found() == {
        STUDENT: [f"{STUDENT} {was} cache.said ({old[CACHE]}) than {CACHE} is ({new}): {PUT_BACK}"]
    }
    command(["train", "pipeline.yaml"])
    assert found() == {}


def test_what_is_not_here_is_said_and_no_mistake(whole: Path, capsys: Capture) -> None:
    corpus, cache = digest(CORPUS), digest(CACHE)
    teacher = record_of(CACHE)["inputs"]["teacher"][:12]

    def unchecked(*paths: Path) -> list[str]:
        assert found(*paths) == {}
        return [line for one in verify(paths) for line in one.unchecked]

    # It is found by its digest, whatever it is called.
    CORPUS.rename(CORPUS.with_name("other"))
    assert unchecked(STUDENT) == [f"teacher of {CACHE} ({teacher})"]
    CORPUS.with_name("other").rename(CORPUS)
    shutil.move("text.txt", "elsewhere.txt")
    gone = "text.txt does not exist"
    assert unchecked(CORPUS) == [f"source.0 of {TEXTS} ({gone})", f"source.0 of {CORPUS} ({gone})"]
    shutil.rmtree(CORPUS)
    assert unchecked(STUDENT) == [
        f"corpus of {CACHE} ({corpus})",
        f"teacher of {CACHE} ({teacher})",
        f"corpus of {STUDENT} ({corpus})",
    ]
    shutil.rmtree(CACHE)
    assert unchecked(STUDENT) == [
        f"corpus of {STUDENT} ({corpus})",
        f"cache.said of {STUDENT} ({cache})",
    ]
    shutil.copytree(STUDENT, "mine")
    assert unchecked(Path("mine")) == ["what mine was made from (it lies in no project)"]
    capsys.readouterr()
    command(["verify", "mine"])
    assert capsys.readouterr().out.splitlines()[1] == (
        "  not here, so not checked: what mine was made from (it lies in no project)"
    )


def test_what_files_gave_is_held_against_the_files(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors.begun(project, monkeypatch)
    np.save("v.npy", vectors.VECTORS)
    vectors.pipeline("{part: embedding, file: v.npy}")
    vectors.run("tokenize", "cache-teacher")
    (cache,) = Path("artifacts/caches").iterdir()
    assert found() == {}
    np.save("v.npy", vectors.VECTORS + 1)
    line = f"{cache}: teacher (v.npy) is not what it was made from: {PUT_BACK}"
    assert found() == {cache: [line]}
    Path("v.npy").unlink()
    assert found() == {}
    assert f"teacher of {cache} (v.npy does not exist)" in [*verify([Path()])][-1].unchecked


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("nowhere", "nowhere: it does not exist: name the folder of an artifact, or one above"),
        ("teacher", "teacher: there is no artifact in it: name the folder of an artifact, or one"
         " above"),
    ],
)  # fmt: skip
def test_where_there_is_no_artifact(whole: Path, path: str, line: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        [*verify([Path(path)])]
    assert str(caught.value) == line


def test_a_pipe_in_place_of_a_manifest_is_not_waited_for(whole: Path) -> None:
    """Of an artifact that is looked at, of one that another may be made from, and of a folder."""
    for folder in ("artifacts/corpora/a", "artifacts/caches/a", "elsewhere"):
        Path(folder).mkdir(parents=True)
        os.mkfifo(Path(folder, "manifest.json"))
    lines = {str(one.folder): one.problems for one in verify([Path()])}
    for folder in ("artifacts/corpora/a", "artifacts/caches/a"):
        assert lines.pop(folder) == [
            f"{folder}/manifest.json is no regular file: delete it and rerun"
        ]
    assert not any(lines.values())
    assert "elsewhere" not in lines


def test_every_flipped_bit_is_found(whole: Path, long: bool, figure: Figure) -> None:
    """Of every kind of file, also of manifests, where the chain finds it."""
    seed = 4
    draw, trials = random.Random(seed), 3000 if long else 60
    files = [
        path
        for folder in ALL
        for path in sorted(folder.rglob("*"))
        # Nothing names the manifest of a student.
        if path.is_file() and path not in {STUDENT / "README.md", STUDENT / "manifest.json"}
    ]
    kinds = set()
    for trial in range(trials):
        path = draw.choice(files)
        data = path.read_bytes()
        place = draw.randrange(len(data) * 8)
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        write(path, bytes(flipped))
        assert found(STUDENT), (seed, trial, path, place)
        write(path, data)
        kinds.add(path.name if path.name == "manifest.json" else path.suffix)
    figure(f"{trials} bits flipped in {len(kinds)} kinds of files, all found")
