"""What a teacher has said about a row is not asked again when the row moves to another block."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdpipe import fill_blocks, known_rows, teacher
from kdpipe.activations import Tokens
from kdpipe.cache import Cache
from kdpipe.corpus import Corpus, text_digest
from kdpipe.encoder import Encoder, observe
from kdpipe.parts import Part
from kdpipe.project import Project
from kdpipe.questions import missing
from kdpipe.records import read_sealed
from tests import mlm
from tests.ends import Capture, command
from tests.pieces import (
    asking,
    make_cache,
    make_corpus,
    new_project,
    pipeline,
    sentences,
    write_text,
    write_yaml,
)

ROWS = 300
NEW = sentences(3, start=900)
TARGETS: list[dict[str, Any]] = [
    {"kind": "embedding", "storage": "int8"},
    {"kind": "hidden", "layers": [2], "storage": "fp16"},
]
SPEC: dict[str, Any] = {"corpus": "text", "teacher": "tiny", "dtype": "fp32", "targets": TARGETS}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill_blocks, "SMALLEST", 20)
    monkeypatch.setattr(fill_blocks, "SPREAD", 1000)


def scattered(lines: list[str]) -> list[str]:
    """With three new ones among them."""
    return [NEW[0], *lines[:150], NEW[1], *lines[150:], NEW[2]]


def made(root: Path, lines: list[str], **sections: Any) -> tuple[Project, Corpus, Cache]:
    place = new_project(root, lines, caches={"said": SPEC, **sections})
    corpus = make_corpus(place)
    return place, corpus, make_cache(place, corpus)[0]


def by_text(cache: Cache, part: Part) -> dict[bytes, torch.Tensor]:
    """The vectors of each row."""
    found = {}
    for row, digest in enumerate(cache.corpus.text_digests):
        found[bytes(digest)] = cache.read(np.array([row]), frozenset({part}))[part]
    return found


def raw(cache: Cache, name: str = "embedding") -> set[bytes]:
    """Each row, and what is said of it as it is kept, whichever shard it lies in."""
    found = set()
    for path in cache.folder.glob(f"{name}*"):
        kept = load_file(path)
        rows = kept.pop("rows")
        ends = np.cumsum(kept.pop("counts", torch.ones(len(rows))).int().numpy())[:-1]
        pieces = [[bytes(row.numpy()) for row in rows]]
        for _, tensor in sorted(kept.items()):
            bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
            pieces.append([part.tobytes() for part in np.split(bits.numpy(), ends)])
        found |= {b"".join(row) for row in zip(*pieces, strict=True)}
    return found


def reads(place: Project, corpus: Corpus, name: str = "said") -> tuple[int, int]:
    """Rows in blocks that are to be made, and those of them that the teacher has to read."""
    questions = asking(place, corpus, name)
    todo, _ = known_rows.spare(missing(questions, place.store), questions, place.cache_folder(name))
    unread = [len(item.unread) for item in todo]
    lengths = [corpus.lengths[item.block.first_row + item.unread].sum() for item in todo]
    assert [item.tokens for item in todo] == lengths
    return sum(item.block.rows for item in todo), sum(unread)


def test_the_teacher_reads_new_rows_alone(project: Path) -> None:
    lines = sentences(ROWS)
    place, _, before = made(project, lines)
    old, parts = raw(before), [Part("embedding"), Part("hidden", 2)]
    said = {part: by_text(before, part) for part in parts}
    write_text(project / "text.txt", scattered(lines))
    corpus = make_corpus(place)
    in_blocks, unread = reads(place, corpus)
    assert in_blocks > 10 * len(NEW)
    assert unread == len(NEW)
    after, _ = make_cache(place, corpus)
    # Bit by bit.
    assert len(raw(after) - old) == len(NEW)
    assert raw(after) > old
    for part in parts:
        found = by_text(after, part)
        assert len(found.keys() - said[part].keys()) == len(NEW)
        assert all(torch.equal(found[row], said[part][row]) for row in said[part])
    # What is new is what the teacher says.
    new = [bytes(text_digest(line)) for line in NEW]
    rows = np.array([row for row, text in enumerate(corpus.text_digests) if bytes(text) in new])
    tokens = Tokens.of(corpus.gather(rows), 0)
    live = observe(place.teacher("tiny").load(), tokens, after.provides, "fp32")
    cached = after.read(rows, after.provides)
    assert all(torch.allclose(cached[part], live[part], atol=2e-2) for part in parts)


def test_rows_taken_out_are_no_work(project: Path) -> None:
    lines = sentences(ROWS)
    place, _, before = made(project, scattered(lines))
    old = raw(before)
    write_text(project / "text.txt", lines)
    corpus = make_corpus(place)
    assert reads(place, corpus)[1] == 0
    after, _ = make_cache(place, corpus)
    assert raw(after) < old
    assert len(old - raw(after)) == len(NEW)


def test_the_teacher_is_not_measured_again(project: Path) -> None:
    lines, read = sentences(ROWS), list[int]()
    place = new_project(project, lines, caches={"said": SPEC})

    def load() -> Encoder:
        encoder = place.teacher("tiny").load()
        encoder.register_forward_hook(lambda module, said, out: read.append(len(said[0])))
        return encoder

    told = []
    for text in (lines, scattered(lines)):
        write_text(project / "text.txt", text)
        questions = replace(asking(place, make_corpus(place)), dtype="bf16")
        read.clear()
        todo, known = known_rows.spare(
            missing(questions, place.store), questions, place.cache_folder("said")
        )
        teacher.answer(questions, todo, place.store, load, known)
        facts = teacher.facts(questions, place.store)
        told.append(facts.difference)
        teacher.finish(questions, facts, place.store, place.cache_folder("said"), {})
    assert sum(read) == len(NEW)
    assert told[0] == told[1] is not None


@pytest.mark.parametrize("what", ["values", "rows", "one"])
def test_damaged_shards_know_nothing(project: Path, what: str) -> None:
    lines = sentences(ROWS)
    place, _, before = made(project, lines)
    truth = by_text(before, Part("embedding"))
    write_text(project / "text.txt", scattered(lines))
    corpus = make_corpus(place)
    for path in sorted(before.folder.glob("hidden*"))[: 1 if what == "one" else None]:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.unlink()
        if what != "rows":
            path.write_bytes(data)
    _, unread = reads(place, corpus)
    assert unread > len(NEW)
    after, _ = make_cache(place, corpus)
    found = by_text(after, Part("embedding"))
    assert all(torch.allclose(found[row], truth[row], atol=2e-2) for row in truth)


def test_parts_about_tokens_masks_and_the_most_likely(project: Path) -> None:
    lines = sentences(ROWS)
    place = mlm.made_project(project, storage="bf16")
    write_text(project / "text.txt", lines)
    before, _ = make_cache(place, make_corpus(place))
    old = {question.name: raw(before, question.name) for question in before.facts.questions}
    assert {name.partition(".")[0] for name in old} == {
        "embedding",
        "masked_logits",
        "token_logits",
    }
    write_text(project / "text.txt", scattered(lines))
    corpus = make_corpus(place)
    assert reads(place, corpus)[1] == len(NEW)
    after, _ = make_cache(place, corpus)
    for name, rows in old.items():
        assert len(raw(after, name) - rows) == len(NEW)
        assert raw(after, name) > rows


@pytest.mark.parametrize(
    "change", ["dtype", "another question", "prompt", "another teacher", "no cache"]
)
def test_nothing_is_known_of(project: Path, change: str) -> None:
    lines = sentences(ROWS)
    prompt = "the cat " if change == "prompt" else ""
    place, first, before = made(project, [prompt + line for line in lines])
    read = {*first.token_digests.tolist()}
    write_text(project / "text.txt", scattered(lines))
    spec, teacher = dict(SPEC), dict[str, Any](model="teacher")
    if change == "another question":
        spec["targets"] = [*TARGETS, {"kind": "hidden", "layers": [1]}]
    if change == "another teacher":
        teacher["normalize"] = False
    text = place.pipeline.corpora["text"].model_copy(update={"prompt": prompt})
    sections = {"caches": {"said": spec}, "teachers": {"tiny": teacher}}
    other = pipeline(**sections).model_copy(update={"corpora": {"text": text}})
    corpus = make_corpus(place := Project(place.file, other, place.root))
    # The tokens are the same, also where some now are those of a prompt.
    assert len(read & {*corpus.token_digests.tolist()}) > ROWS // 2
    if change == "no cache":
        (before.folder / "manifest.json").unlink()
    questions = asking(place, corpus)
    if change == "dtype":
        questions = replace(questions, dtype="bf16")
    todo = missing(questions, place.store)
    assert todo
    spared, known = known_rows.spare(todo, questions, before.folder)
    assert [item.tokens for item in spared] == [item.block.tokens for item in todo]
    assert all(item.known is None for item in spared)
    assert known is None or change == "another question"


FILE = """\
corpora: {text: {sources: [{kind: files, files: [text.txt]}], tokenizer: tiny}}
teachers: {tiny: {model: teacher}}
caches: {said: {corpus: text, teacher: tiny, dtype: fp32, targets: [{kind: embedding}]}}
"""


def test_the_command_tells_what_was_read(project: Path, capsys: Capture) -> None:
    lines = sentences(ROWS)
    new_project(project, lines)
    write_yaml(project / "pipeline.yaml", FILE)
    for stage in ("tokenize", "cache-teacher"):
        command([stage, "pipeline.yaml"])
    store, made_before = project / ".kdpipe" / "store", set(project.glob(".kdpipe/store/*/*.json"))
    write_text(project / "text.txt", scattered(lines))
    command(["tokenize", "pipeline.yaml"])
    capsys.readouterr()
    command(["cache-teacher", "--dry-run", "pipeline.yaml"])
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "embedding.fp16" in line)
    assert [cell.strip() for cell in row.split("\u2502")[1:-1]][2] == str(len(NEW))
    command(["cache-teacher", "pipeline.yaml"])
    assert f"the teacher read 3 of {ROWS + 3} rows" in capsys.readouterr().err
    made = [read_sealed(path)["made_by"] for path in {*store.glob("*/*.json")} - made_before]
    assert len(made) > 1
    assert sum(one["known_rows"] for one in made) > 10 * len(NEW)
