"""`kdpipe augment` as a user runs it, and a corpus that reads what it made."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from kdpipe import dvc, versions
from kdpipe.cli import main
from kdpipe.corpus import open_corpus
from kdpipe.pipeline import load_pipeline
from tests.masked import masked_folder, write_vectors
from tests.tiny import SENTENCES, tiny_teacher_folder

PIPELINE = """
augmentations:
  more:
    sources:
      - {kind: files, files: [pairs.tsv], text_column: a, text_pair_column: b, label_column: label}
    methods:
      - {kind: tinybert, model: bert, vectors: glove.txt}
      - {kind: perturb, steps: [{kind: short_disorder}]}
    copies: 3
  noisy:
    sources: [{kind: files, files: [text.txt]}]
    methods: [{kind: perturb, steps: [{kind: masking}]}]
corpora:
  pairs:
    sources:
      - kind: files
        files: [artifacts/texts/more]
        text_pair_column: text_pair
        label_column: label
        group_column: origin
    tokenizer: teacher
    validation: 0.3
  alone:
    sources:
      - {kind: files, files: [pairs.tsv], text_column: a, text_pair_column: b, label_column: label}
    tokenizer: teacher
    validation: 0.3
  text:
    sources: [{kind: files, files: [text.txt, artifacts/texts/noisy], group_column: origin}]
    tokenizer: teacher
teachers: {}
"""


@pytest.fixture
def files(project):
    pairs = itertools.pairwise(SENTENCES[:21])
    rows = [f"{first}\t{second}\t{number % 3}" for number, (first, second) in enumerate(pairs)]
    (project / "pairs.tsv").write_text("\n".join(["a\tb\tlabel", *rows]) + "\n", "utf-8")
    (project / "text.txt").write_text("\n".join(SENTENCES) + "\n", "utf-8")
    masked_folder(project / "bert")
    write_vectors(project / "glove.txt")
    tiny_teacher_folder(project / "teacher")
    (project / "p.yaml").write_text(PIPELINE, "utf-8")
    return project


def test_from_texts_to_a_corpus_of_their_copies(files, capsys):
    assert main(["augment", "p.yaml"]) == 0
    told = capsys.readouterr().err
    lines = (files / "artifacts/texts/more").glob("part-*.jsonl")
    count = sum(path.read_text("utf-8").count("\n") for path in lines)
    assert 20 * 7 < count <= 20 * (1 + 2 * 2 * 3)
    assert f"artifacts/texts/more: 20 rows became {count}\n" in told
    assert main(["tokenize", "p.yaml"]) == 0
    pairs = open_corpus(Path("artifacts/corpora/pairs"), "")
    assert pairs.facts.rows + pairs.facts.duplicates == count
    block = pairs.block(0)
    assert block.second_at is not None
    assert {*block.labels.to_pylist()} == {0, 1, 2}
    alone = open_corpus(Path("artifacts/corpora/alone"), "")
    own = dict(zip(alone.text_digests.tolist(), alone.held_out.tolist(), strict=True))
    assert {*own.values()} == {True, False}
    side, sides = None, list[bool]()
    for digest, held_out in zip(pairs.text_digests.tolist(), pairs.held_out, strict=True):
        # A row stands before its copies.
        side = own.get(digest, side)
        sides.append(held_out == side)
    assert all(sides)
    text = open_corpus(Path("artifacts/corpora/text"), "")
    assert text.facts.rows > len(SENTENCES)
    assert text.facts.duplicates == len(SENTENCES)


def test_again_it_is_up_to_date_until_something_changes(files, capsys):
    assert main(["augment", "p.yaml", "noisy"]) == 0
    assert not (files / "artifacts/texts/more").exists()
    assert main(["augment", "p.yaml"]) == 0
    capsys.readouterr()
    assert main(["augment", "p.yaml"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "artifacts/texts/more: up to date",
        "artifacts/texts/noisy: up to date",
    ]
    (files / "p.yaml").write_text(PIPELINE.replace("copies: 3", "copies: 2"), "utf-8")
    assert main(["augment", "p.yaml"]) == 0
    told = capsys.readouterr().err
    assert "artifacts/texts/more: 20 rows became " in told
    assert "artifacts/texts/noisy: up to date" in told


def test_copies_that_are_not_made_yet(files, capsys):
    assert main(["tokenize", "p.yaml"]) == 3
    told = capsys.readouterr().err
    assert "artifacts/texts/more does not exist: run 'kdpipe augment' first\n" in told


def test_mistakes_end_in_one_line(files, capsys):
    assert main(["augment", "p.yaml", "mroe"]) == 2
    told = capsys.readouterr().err
    assert told == (
        "kdpipe: error: no augmentation is called 'mroe': did you mean 'more'? allowed: more,"
        " noisy\n"
    )
    (files / "glove.txt").unlink()
    assert main(["augment", "p.yaml", "more"]) == 3
    told = capsys.readouterr().err
    assert told == (
        "kdpipe: error: glove.txt does not exist: check 'vectors' in the pipeline file\n"
    )


def test_dvc_knows_what_it_reads_and_who_reads_what_it_makes(files):
    path = Path("p.yaml")
    found = dvc.stages(load_pipeline(path), path, Path())
    names = ["augment-more", "augment-noisy", "tokenize-pairs", "tokenize-alone", "tokenize-text"]
    assert [*found] == names
    out = {"artifacts/texts/more/manifest.json": {"cache": False, "persist": True}}
    assert found["augment-more"] == {
        "cmd": f"kdpipe augment --stage-version {versions.AUGMENT} p.yaml more",
        "deps": ["bert", "glove.txt", "pairs.tsv"],
        "params": [{"p.yaml": ["augmentations.more"]}],
        "outs": [out],
    }
    assert found["tokenize-pairs"]["deps"] == ["artifacts/texts/more/manifest.json", "teacher"]
    assert found["tokenize-text"]["deps"] == [
        "artifacts/texts/noisy/manifest.json",
        "teacher",
        "text.txt",
    ]
