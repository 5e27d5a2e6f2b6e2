"""A small project for students that are no transformers: texts with a label, words with tags."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from kdpipe.cli import main
from kdpipe.encoder import Encoder
from kdpipe.load import load_encoder
from kdpipe.modules import head_of
from kdpipe.pipeline import CorpusSpec
from kdpipe.project import Project, open_project
from kdpipe.tokenizer import Tokenizer
from kdpipe.word_tokenizer import word_tokenizer
from tests.tiny import SENTENCES, tiny_teacher_folder

GOOD, BAD = ("bright", "fresh", "warm", "quiet"), ("broken", "late", "wet", "heavy")
THINGS = ("cat", "door", "river", "ship", "train", "lamp", "garden", "bell")
TRAIN = {"max_steps": 40, "tokens_per_batch": 512, "learning_rate": 1e-2, "bf16": False}
SMALL = {"word_width": 16, "hidden_size": 12}
SEQUENCE = {"corpus": "reviews", "head": {"kind": "sequence"}}
TOKEN = {"corpus": "tags", "head": {"kind": "token"}}
SPECIAL = ["[PAD]", "[UNK]", "[SEP]"]
TEXT = ["The cat sees the cat.", "A dog, the dog", "the end."]


def reviews() -> list[tuple[str, str]]:
    """64 different texts with the label of the one word that decides."""
    return [
        (f"The {thing} near the {other} is {word}.", "good" if word in GOOD else "bad")
        for place, (thing, word) in enumerate(itertools.product(THINGS, GOOD + BAD))
        for other in [THINGS[place % 7]]
    ]


def tagged() -> list[tuple[list[str], list[str]]]:
    """56 sentences of words with tags: things are tagged."""
    found = []
    for first, second in itertools.permutations(THINGS, 2):
        words = [*f"The {first} is near a".split(), *(("red",) if first < second else ()), second]
        tags = ["B-THING" if word in THINGS else "O" for word in words]
        found.append(([*words, "."], [*tags, "O"]))
    return found


def write(root: Path, students: dict[str, Any], /, **more: Any) -> Project:
    """Files and the pipeline file of a project in the current folder."""
    if not (root / "teacher").is_dir():
        tiny_teacher_folder(root / "teacher")
        lines = [f"{text}\t{label}\n" for text, label in reviews()]
        (root / "reviews.tsv").write_text("text\tlabel\n" + "".join(lines))
        rows = [zip(*pair, strict=True) for pair in tagged()]
        text = "\n".join("".join(f"{word} {tag}\n" for word, tag in row) for row in rows)
        (root / "tags.conll").write_text(text)
        (root / "text.txt").write_text("\n".join(SENTENCES))
    reviewed = {"kind": "files", "files": ["reviews.tsv"], "label_column": "label"}
    sources = {
        "reviews": reviewed,
        "tags": {"kind": "conll", "files": ["tags.conll"]},
        "text": {"kind": "files", "files": ["text.txt"]},
    }
    pipeline: dict[str, Any] = {
        "corpora": {
            name: {"sources": [source], "tokenizer": "tiny", "max_seq_length": 32}
            | {"validation": 0.2}
            for name, source in sources.items()
        }
        | {
            f"{name}-by-words": {"sources": [sources[name]], "tokenizer": {"kind": "words"}}
            | {"validation": 0.2}
            for name in ("reviews", "tags")
        },
        "teachers": {"tiny": {"model": "teacher"}},
        "caches": {
            "said": {
                "corpus": "text",
                "teacher": "tiny",
                "dtype": "fp32",
                "targets": [{"kind": "embedding"}, {"kind": "hidden", "layers": [0, 1, 2]}],
            }
        },
        "students": {
            name: {"objectives": [{"kind": "labels"}], "train": TRAIN} | student
            for name, student in students.items()
        },
    }
    for section, entries in more.items():
        pipeline[section] = pipeline.get(section, {}) | entries
    with (root / "p.yaml").open("w") as file:
        YAML().dump(pipeline, file)
    return open_project(Path("p.yaml"))


def run(*words: str) -> None:
    assert main([*words]) == 0


def loaded(folder: Path) -> Encoder:
    return load_encoder(folder, head_of(folder))


def corpus_spec(lines: list[str], **keys: Any) -> CorpusSpec:
    """A corpus of a text file in the current folder, or of words where lines have tabs."""
    tagged = any("\t" in line for line in lines)
    name, kind = ("some.conll", "conll") if tagged else ("some.txt", "files")
    Path(name).write_text("\n".join(lines) + "\n")
    source = {"kind": kind, "files": [name]}
    tokenizer = {"kind": "words", **keys.pop("tokenizer", {})}
    spec = {"sources": [source], "tokenizer": tokenizer, "validation": 0, **keys}
    return CorpusSpec.model_validate(spec)


def made(lines: list[str], **keys: Any) -> Tokenizer:
    spec = corpus_spec(lines, **keys)
    assert not isinstance(spec.tokenizer, str)
    return word_tokenizer(spec, spec.tokenizer, Path())


def words_of(tokenizer: Tokenizer) -> list[str]:
    """The vocabulary in the order of its ids."""
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=True)
    assert sorted(vocabulary.values()) == list(range(tokenizer.vocabulary))
    return sorted(vocabulary, key=lambda word: vocabulary[word])
