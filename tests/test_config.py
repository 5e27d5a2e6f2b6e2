"""Mistakes in a pipeline file, said in words of the file and not of the library that checks it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from kdpipe.config import MAX_BYTES, MAX_DEPTH, MAX_NODES, read_yaml
from kdpipe.errors import UsageError
from kdpipe.pipeline import CorpusSpec, Pipeline, load_pipeline

RECIPES = Path(__file__).resolve().parent.parent / "pipelines"
FILE = """\
corpora:
  text:
    sources: [{kind: files, files: [text.txt]}]
    tokenizer: tiny
    max_seq_length: 32
teachers:
  tiny: {model: teacher}
caches:
  said: {corpus: text, teacher: tiny, targets: [{kind: logits}]}
students:
  small:
    caches: [said]
    model: {kind: recurrent, cell: gru}
    head: {kind: sequence}
    objectives:
      - {kind: logits, temperature: 4.0, weight: 1.0}
      - {kind: structure, loss: nst, student_layers: [1, 1], teacher_layers: [2, 2]}
      - {kind: relation, layers: {1: 2}}
    train: {max_steps: 40, bf16: false}
"""
SOURCE, FIRST = "3: corpora.text.sources.0", "16: students.small.objectives.0"


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("[text.txt]", "text.txt", f"{SOURCE}.files: Input should be a list, found 'text.txt'"),
        ("[text.txt]", "[]", f"{SOURCE}.files: Input should be a list of at least 1, found []"),
        ("kind: files, ", "", f"{SOURCE}: key 'kind' is required"),
        ("files: [text.txt]", "file: a", f"{SOURCE}: unknown key 'file': did you mean 'files'? "),
        (
            "kind: recurrent",
            "kind: bigru",
            "13: students.small.model: unknown kind 'bigru': did you mean 'recurrent'? allowed: ",
        ),
        ("kind: logits, t", "kind: logit, t", f"{FIRST}: unknown kind 'logit': did you mean 'log"),
        ("temperature: 4.0", "temp: 4.0", f"{FIRST}: unknown key 'temp': did you mean 'temperatu"),
        (
            "temperature: 4.0",
            "temperature: flsw",
            f"{FIRST}.temperature: Input should be a number, or a mapping, found 'flsw'",
        ),
        (
            "temperature: 4.0",
            "temperature: {kind: flws}",
            f"{FIRST}.temperature: unknown kind 'flws': did you mean 'flsw'? allowed: flsw, cwsm",
        ),
        (
            "weight: 1.0",
            "weight: linear_decay",
            f"{FIRST}.weight: Input should be a number, or a list, found 'linear_decay'",
        ),
        (
            "student_layers: [1, 1]",
            "student_layers: [1]",
            "17: students.small.objectives.1.student_layers: item 2 of the list is required, found",
        ),
        (
            "{1: 2}",
            "6",
            "18: students.small.objectives.2.layers: Input should be a mapping, or 'uniform' or"
            " 'last', found 6",
        ),
        ("40", "40, lr: 1", "19: students.small.train: unknown key 'lr': did you mean 'learning_"),
        (
            "false",
            "x",
            "19: students.small.train.bf16: Input should be true or false, or 'auto', f",
        ),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, wanted: str) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(FILE)
    load_pipeline(file)
    assert FILE.count(old) == 1
    file.write_text(FILE.replace(old, new))
    with pytest.raises(UsageError) as caught:
        load_pipeline(file)
    assert str(caught.value).startswith(f"{file}:{wanted}")
    assert "\n" not in str(caught.value)


def nested(levels: int) -> str:
    """A mapping with lists in it."""
    return f"a: {'[' * (levels - 1)}{']' * (levels - 1)}\n"


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcde")
)
"""Small, and large once its aliases stand for themselves: 9 to the power of 5 values."""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "#" * MAX_BYTES + "\n",
            "262,145 bytes, a pipeline file has at most 262,144: make several",
        ),
        (nested(MAX_DEPTH + 1), "nested deeper than 32 levels: mend its brackets"),
        (
            ALIASES,
            "more than 50,000 keys and values, with those of its aliases: make several files",
        ),
    ],
)
def test_what_is_too_much_is_refused(tmp_path: Path, text: str, wanted: str) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_yaml(file)
    assert str(caught.value) == f"{file}: {wanted}"


def test_what_is_not_too_much_is_read(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("a: 1\n".ljust(MAX_BYTES, "#"))
    assert read_yaml(file) == {"a": 1}
    file.write_text(nested(MAX_DEPTH))
    assert [*read_yaml(file)] == ["a"]
    file.write_text(ALIASES[: ALIASES.index("e:")])
    assert [*read_yaml(file)] == [*"abcd"]


def test_an_anchor_may_be_given_again(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text("a: &x 1\nb: *x\nc: &x 2\nd: *x\n")
    assert read_yaml(path) == {"a": 1, "b": 1, "c": 2, "d": 2}


def test_the_page_tells_what_is_too_much() -> None:
    page = " ".join((RECIPES.parent / "docs/pipeline-file.md").read_text("utf-8").split())
    limits = f"at most {MAX_BYTES >> 10} KiB, {MAX_DEPTH} levels and {MAX_NODES:,} keys and values"
    assert limits in page


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.parent.name)
def test_what_identity_gives_comes_back(path: Path) -> None:
    """Also where a key may not stand beside another, and its default has no effect."""
    pipeline = load_pipeline(path)
    assert Pipeline.of_identity(pipeline.identity()) == pipeline


def test_a_default_in_an_identity_was_not_said_by_anybody() -> None:
    source = {"kind": "files", "files": ["a.txt"]}
    spec = CorpusSpec.model_validate(
        {"sources": [source], "validation_sources": [source], "tokenizer": "tiny"}
    )
    assert spec.identity()["validation"] == 0.02
    assert CorpusSpec.of_identity(spec.identity()) == spec
    with pytest.raises(ValueError, match="'validation' and 'validation_sources' both say"):
        CorpusSpec.of_identity({**spec.identity(), "validation": 0.5})
    with pytest.raises(ValueError, match="unknown key 'moon'"):
        CorpusSpec.of_identity({**spec.identity(), "moon": 1})
