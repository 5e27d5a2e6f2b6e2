"""A corpus holds the tokens of its text, its blocks follow the text, and damage is found."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from kdpipe import corpus, fill_blocks
from kdpipe.errors import ArtifactError, UsageError
from tests.pieces import make_corpus, new_project, sentences, write_text


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(fill_blocks, "SMALLEST", 20)
    monkeypatch.setattr(fill_blocks, "SPREAD", 100)
    monkeypatch.setattr(fill_blocks, "LARGEST", 1000)


def test_rows_are_the_tokens_of_the_text_in_order(project):
    lines = sentences(100)
    place = new_project(project, lines)
    made = make_corpus(place)
    reading = place.reading("text")
    expected = reading.tokenizer.encode(lines, 32)
    rows = np.arange(100)
    assert made.gather(rows).ids.tolist() == expected.ids.tolist()
    assert made.lengths.tolist() == expected.lengths.tolist()
    shuffled = np.random.default_rng(0).permutation(rows)
    starts = np.concatenate([[0], np.cumsum(expected.lengths)])
    wanted = np.concatenate([expected.ids[starts[row] : starts[row + 1]] for row in shuffled])
    assert made.gather(shuffled).ids.tolist() == wanted.tolist()
    assert made.facts.rows == 100
    assert made.facts.tokens == len(expected.ids)
    assert len(made.facts.blocks) > 5


def test_what_a_block_file_holds(project):
    lines = sentences(100)
    made = make_corpus(new_project(project, lines))
    first = made.facts.blocks[1]
    with pa.memory_map(str(made.folder / first.name)) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table.column_names == ["row", "text_digest", "held_out", "length", "input_ids"]
    assert table["row"].to_pylist() == list(range(first.first_row, first.first_row + first.rows))
    assert table.schema.field("input_ids").type.value_type == pa.uint16()
    digest = hashlib.blake2b(lines[first.first_row].encode(), digest_size=16).digest()
    assert table["text_digest"][0].as_py() == digest
    assert table["length"].to_pylist() == [len(ids) for ids in table["input_ids"].to_pylist()]


def test_same_text_same_bytes_and_every_file_is_listed(project):
    place = new_project(project, sentences(60))
    first = make_corpus(place)
    second = make_corpus(place)
    assert first.digest == second.digest
    on_disk = sorted(path.name for path in first.folder.iterdir())
    assert on_disk == sorted([*(part.name for part in first.manifest.files), "manifest.json"])


@pytest.mark.parametrize("where", [0, 150, 300])
def test_inserting_rows_changes_only_blocks_nearby(project, where):
    lines, extra = sentences(300), sentences(5, start=5000)
    before = make_corpus(new_project(project, lines))
    write_text(project / "text.txt", lines[:where] + extra + lines[where:])
    after = make_corpus(new_project(project, lines[:where] + extra + lines[where:]))
    old = {block.tokens_digest for block in before.facts.blocks}
    changed = [block for block in after.facts.blocks if block.tokens_digest not in old]
    assert 1 <= len(changed) <= 3
    assert len(after.facts.blocks) > 12


def test_long_rows_are_cut_and_keep_their_last_special_token(project):
    made = make_corpus(new_project(project, ["the cat " * 100, "A cat.", "A dog.", "The moon."]))
    ids = made.gather(np.array([0, 1])).ids
    assert made.lengths[0] == 32
    assert ids[31] == ids[32 + made.lengths[1] - 1]
    assert made.facts.cut_rows == 1


def test_pairs_and_labels_are_kept(project):
    lines = "".join(
        f"{a}\t{b}\t{n % 3}\n"
        for n, (a, b) in enumerate(zip(*[iter(sentences(40))] * 2, strict=True))
    )
    (project / "pairs.tsv").write_text("first\tsecond\tlabel\n" + lines)
    columns = {"text_column": "first", "text_pair_column": "second", "label_column": "label"}
    spec = {
        "sources": [{"kind": "files", "files": ["pairs.tsv"], **columns}],
        "tokenizer": "tiny",
        "max_seq_length": 64,
    }
    made = make_corpus(new_project(project, ["-"], corpora={"text": spec}))
    found = made.gather(np.arange(20))
    assert found.second_at is not None
    assert bool((found.second_at < found.lengths).all())
    assert bool((found.second_at > 1).all())
    labels = [x for i in range(len(made.facts.blocks)) for x in made.block(i).labels.to_pylist()]
    assert labels == [n % 3 for n in range(20)]


def test_a_flipped_bit_is_found_with_the_files_name(project):
    made = make_corpus(new_project(project, sentences(100)))
    path = made.folder / made.facts.blocks[2].name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    opened = corpus.open_corpus(made.folder)
    with pytest.raises(ArtifactError, match=f"{path.name} is damaged"):
        _ = opened.lengths


@pytest.mark.parametrize(
    ("lines", "validation", "message"),
    [
        ([" "], 0.1, "has no text"),
        (sentences(3), 0.999, r"all rows \(3\) are held out"),
    ],
)
def test_a_corpus_of_nothing_is_refused(project, lines, validation, message):
    spec = {"sources": [{"kind": "files", "files": ["text.txt"]}], "tokenizer": "tiny"}
    place = new_project(project, lines, corpora={"text": {**spec, "validation": validation}})
    with pytest.raises(ArtifactError, match=f"{message}|is empty"):
        make_corpus(place)
    assert not (place.corpus_folder("text") / "manifest.json").exists()


def test_more_tokens_than_the_teacher_has_positions_for(project):
    spec = {"sources": [{"kind": "files", "files": ["text.txt"]}], "tokenizer": "tiny"}
    place = new_project(
        project, sentences(3), corpora={"text": {**spec, "max_seq_length": 100_000}}
    )
    with pytest.raises(UsageError, match=r"max_seq_length is 100000, 'tiny' has positions for \d+"):
        make_corpus(place)
