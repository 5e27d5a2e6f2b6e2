"""The artifact: what a corpus reads of it, and what a killed, damaged or longer run makes again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kdpipe import artifact
from kdpipe.augment import AugmentationSpec, write
from kdpipe.augment.tools import Tools
from kdpipe.errors import ArtifactError
from kdpipe.sources import Files, Row
from tests.masked import masked_folder, write_vectors
from tests.tiny import SENTENCES

MASKING = {"kind": "perturb", "steps": [{"kind": "masking", "probability": 0.3}]}
PAIRS = {"kind": "files", "files": ["pairs.tsv"], "text_column": "a", "text_pair_column": "b"}
PAIRS |= {"label_column": "label"}
PLACE = Path("artifacts/texts/more")


def spec(*methods: dict, **keys: object) -> AugmentationSpec:
    source = {"kind": "files", "files": ["text.txt"]}
    return AugmentationSpec.model_validate({"sources": [source], "methods": methods, **keys})


def run(asked: AugmentationSpec, tools: Tools | None = None) -> write.TextFacts:
    inputs = {"meaning": "1", **write.text_inputs(asked, Path())}
    return write.write_texts(asked, PLACE, Path(), inputs, tools or Tools(Path(), None))


def is_current(asked: AugmentationSpec) -> bool:
    inputs = {"meaning": "1", **write.text_inputs(asked, Path())}
    return artifact.is_current(PLACE, write.KIND, asked.identity(), inputs, verify=True)


def parts() -> list[Path]:
    return sorted(path for path in PLACE.iterdir() if path.suffix == ".jsonl")


def records() -> list[dict]:
    return [json.loads(line) for path in parts() for line in path.read_text("utf-8").splitlines()]


def as_source(**keys: object) -> list[Row]:
    source = Files.model_validate({"kind": "files", "files": [str(PLACE)], **keys})
    return [*source.rows(Path())]


@pytest.fixture
def text(project):
    (project / "text.txt").write_text("".join(f"{line}\n" for line in SENTENCES[:10]), "utf-8")
    return project / "text.txt"


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(write, "PART", 4)


def test_rows_and_their_copies_stand_together(text, small_parts):
    facts = run(spec(MASKING, copies=3))
    found = records()
    assert facts == write.TextFacts(rows=10, texts=len(found))
    assert [path.name[:12] for path in parts()] == ["part-000000-", "part-000001-", "part-000002-"]
    assert {*map(tuple, found)} == {("text", "label", "source_row", "origin")}
    assert [row["source_row"] for row in found] == sorted(row["source_row"] for row in found)
    for number, line in enumerate(SENTENCES[:10]):
        texts = [row["text"] for row in found if row["source_row"] == number]
        assert texts[0] == line
        assert 1 <= len(texts) <= 4
        assert all("[MASK]" in copy for copy in texts[1:])
    assert [row.text for row in as_source()] == [row["text"] for row in found]


def test_pairs_with_labels_come_back_as_they_went(project):
    lines = ["a\tb\tlabel", "one stove\ttwo cats\t1", "a \u00e9t\u00e9\tno \u2028 end\t0.5"]
    (project / "pairs.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    run(spec(MASKING, sources=[PAIRS], copies=4))
    keys = {"text_pair_column": "text_pair", "label_column": "label"}
    found = as_source(**keys)
    assert found[0] == Row("one stove", "two cats", 1)
    assert Row("a \u00e9t\u00e9", "no \u2028 end", 0.5) in found
    assert {row.label for row in found} == {1, 0.5}
    for row in found:
        one, two = {"one stove", "a \u00e9t\u00e9"}, {"two cats", "no \u2028 end"}
        assert row.text in one or row.text_pair in two
    assert len({*found}) == len(found) > 4


def test_words_with_tags_come_back_as_they_went(project):
    row = {"text": ["New York", "is", "big"], "label": ["B", "O", "O"]}
    (project / "text.jsonl").write_text(json.dumps(row) + "\n")
    source = {"kind": "files", "files": ["text.jsonl"], "label_column": "label"}
    run(spec(MASKING, sources=[source], copies=4))
    found = as_source(label_column="label")
    assert found[0] == Row("New York is big", None, ("B", "O", "O"), ("New York", "is", "big"))
    assert len(found) > 2
    assert all(len(row.words) == len(row.label) == 3 for row in found)


def test_the_manifest_names_what_it_was_made_of(text):
    asked = spec(MASKING, copies=3)
    run(asked)
    manifest, _ = artifact.open_finished(PLACE, "kdpipe.texts", "")
    assert manifest.version == 2
    assert manifest.spec == asked.identity()
    assert manifest.inputs == {"meaning": "1", "source.0": asked.sources[0].state(Path())}
    assert [part.name for part in manifest.files] == [path.name for path in parts()]
    assert {path.name for path in PLACE.iterdir()} == {
        "manifest.json",
        *map(lambda p: p.name, parts()),
    }
    assert is_current(asked)
    assert not is_current(spec(MASKING, copies=4))


def test_models_and_vectors_are_inputs(text, project):
    write_vectors(project / "glove.txt")
    masked_folder(project / "bert")
    method = {"kind": "tinybert", "model": "bert", "vectors": "glove.txt"}
    asked = spec(MASKING, method)
    before = write.text_inputs(asked, Path())
    assert [*before] == ["source.0", "method.1.model", "method.1.vectors"]
    with (project / "glove.txt").open("a") as file:
        file.write("fog 1 1 1\n")
    after = write.text_inputs(asked, Path())
    assert {key for key in after if after[key] != before[key]} == {"method.1.vectors"}
    masked_folder(project / "bert", seed=1)
    last = write.text_inputs(asked, Path())
    assert {key for key in last if last[key] != after[key]} == {"method.1.model"}
    (project / "glove.txt").unlink()
    with pytest.raises(ArtifactError) as caught:
        write.text_inputs(asked, Path())
    assert str(caught.value) == "glove.txt does not exist: check 'vectors' in the pipeline file"


def test_other_rows_change_no_copies_of_a_row(text, project):
    import torch

    write_vectors(project / "glove.txt")
    masked_folder(project / "bert")
    method = {"kind": "tinybert", "model": "bert", "vectors": "glove.txt"}
    asked = spec(method, MASKING, copies=3)

    def by_row() -> dict[str, list[str]]:
        run(asked, Tools(Path(), torch.device("cpu")))
        found: dict[str, list[str]] = {}
        firsts: dict[int, str] = {}
        for row in records():
            firsts.setdefault(row["source_row"], row["text"])
            found.setdefault(firsts[row["source_row"]], []).append(row["text"])
        return found

    before = by_row()
    lines = ["One row more, at the top.", *SENTENCES[5:10], "And in between.", *SENTENCES[:5]]
    text.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    after = by_row()
    assert len(after) == 12
    assert {line: after[line] for line in SENTENCES[:10]} == before
    assert sum(map(len, before.values())) > 30


def test_the_same_run_gives_the_same_bytes(text, small_parts):
    run(spec(MASKING, copies=3))
    before = [path.read_bytes() for path in parts()]
    for path in parts():
        path.unlink()
    (PLACE / "manifest.json").unlink()
    run(spec(MASKING, copies=3))
    assert [path.read_bytes() for path in parts()] == before


def test_a_killed_run_shows_no_text_and_continues(text, small_parts, monkeypatch):
    made: list[int] = []
    lines = write._lines

    def stops(rows, first, *rest):
        if first == 8 and len(made) == 2:
            raise KeyboardInterrupt
        made.append(first)
        return lines(rows, first, *rest)

    monkeypatch.setattr(write, "_lines", stops)
    with pytest.raises(KeyboardInterrupt):
        run(spec(MASKING))
    assert made == [0, 4]
    assert not is_current(spec(MASKING))
    with pytest.raises(ArtifactError, match="is a folder without a file to read"):
        as_source()
    made.append(-1)
    facts = run(spec(MASKING))
    assert made == [0, 4, -1, 8]
    assert facts == write.TextFacts(rows=10, texts=len(records()))
    assert is_current(spec(MASKING))


def test_a_killed_run_leaves_the_texts_before_as_they_were(text, monkeypatch):
    run(spec(MASKING))
    before = {path.name: path.read_bytes() for path in PLACE.iterdir()}

    def stops(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "_lines", stops)
    with pytest.raises(KeyboardInterrupt):
        run(spec(MASKING, seed=1))
    now = {path.name: path.read_bytes() for path in PLACE.iterdir() if path.is_file()}
    assert now == before
    assert is_current(spec(MASKING))


def test_a_damaged_part_is_made_again_and_the_others_stay(text, small_parts):
    run(spec(MASKING))
    before = {path.name: path.read_bytes() for path in parts()}
    stats = {path.name: path.stat().st_ino for path in parts()}
    first = parts()[0]
    first.write_bytes(first.read_bytes().replace(b"cat", b"dog"))
    assert not is_current(spec(MASKING))
    run(spec(MASKING))
    assert {path.name: path.read_bytes() for path in parts()} == before
    now = {path.name: path.stat().st_ino for path in parts()}
    assert [name for name in now if now[name] != stats[name]] == [first.name]


def test_appended_rows_make_the_last_parts_alone(text, small_parts):
    run(spec(MASKING))
    before = {path.name for path in parts()}
    with text.open("a") as file:
        file.write("".join(f"{line}\n" for line in SENTENCES[10:14]))
    run(spec(MASKING))
    now = {path.name for path in parts()}
    assert len(now) == 4
    assert {name[:11] for name in now & before} == {"part-000000", "part-000001"}
    assert os.listdir(PLACE).count("manifest.json") == 1


def test_without_originals_only_copies_are_written(text, small_parts):
    kept, alone = (spec(MASKING, copies=3, keep_original=keep) for keep in (True, False))
    run(kept)
    both = records()
    run(alone)
    copies = records()
    assert copies == [row for row in both if row["text"] not in SENTENCES]
    assert len(both) == len(copies) + 10


def test_rows_without_a_copy_leave_no_empty_file(text, small_parts):
    text.write_text("a b\nb c\nc d\nd e\nf\n", "utf-8")
    moved = {"kind": "short_disorder", "probabilities": [0, 1, 0, 0, 0]}
    asked = spec({"kind": "perturb", "steps": [moved]}, keep_original=False)
    assert run(asked) == write.TextFacts(rows=5, texts=4)
    assert len(parts()) == 1
    assert [row.text for row in as_source()] == ["b a", "c b", "d c", "e d"]
    assert is_current(asked)


def test_no_copy_at_all_is_an_error(text):
    never = {"kind": "perturb", "steps": [{"kind": "masking", "probability": 0.0}]}
    with pytest.raises(ArtifactError) as caught:
        run(spec(never, keep_original=False))
    assert str(caught.value) == (
        "no copy differs from its row, so there is no text to write: raise 'copies', or set"
        " keep_original: true"
    )
