"""The teacher reads a block once: for any cache, after any interruption, and only what changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from kdpipe import fill_blocks, passes, teacher
from kdpipe.encoder import Encoder
from kdpipe.errors import ArtifactError, NonFiniteError, UsageError
from kdpipe.parts import EMBEDDING, Part
from kdpipe.questions import Asking, Todo, missing
from tests.pieces import asking, make_cache, make_corpus, new_project, sentences, write_text
from tests.tiny import tiny_headed_folder

NEEDS = frozenset({EMBEDDING, Part("hidden", 0), Part("hidden", 2)})


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(fill_blocks, "SMALLEST", 20)
    monkeypatch.setattr(fill_blocks, "SPREAD", 100)


def digests(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_second_cache_with_the_same_question_computes_nothing(project):
    cache_spec = {
        "corpus": "text",
        "teacher": "tiny",
        "dtype": "fp32",
        "targets": [{"kind": "hidden", "layers": [2], "storage": "fp32"}],
    }
    place = new_project(project, sentences(60), caches={"other": cache_spec})
    corpus = make_corpus(place)
    _, first = make_cache(place, corpus, "said")
    other, second = make_cache(place, corpus, "other")
    assert first == len(corpus.facts.blocks)
    assert second == 0
    assert other.provides == frozenset({Part("hidden", 2)})


def test_asking_more_asks_only_what_is_new(project):
    more = {
        "corpus": "text",
        "teacher": "tiny",
        "dtype": "fp32",
        "targets": [{"kind": "hidden", "layers": [2, 3], "storage": "fp32"}],
    }
    place = new_project(project, sentences(60), caches={"more": more})
    corpus = make_corpus(place)
    make_cache(place, corpus)
    todo = missing(asking(place, corpus, "more"), place.store)
    assert {question.name for item in todo for question in item.questions} == {"hidden.3.fp32"}


@pytest.mark.parametrize("change", ["insert", "remove"])
def test_changed_rows_recompute_only_their_blocks(project, change):
    lines = sentences(300)
    make_cache(place := new_project(project, lines), make_corpus(place))
    changed = lines[:100] + sentences(3, start=900) + lines[100:]
    write_text(project / "text.txt", changed if change == "insert" else lines[:100] + lines[103:])
    corpus = make_corpus(place)
    cache, computed = make_cache(place, corpus)
    assert 1 <= computed <= 3
    assert len(corpus.facts.blocks) > 20
    whole = asking(place, corpus)
    todo = [Todo(5, corpus.facts.blocks[5], whole.questions, corpus.facts.blocks[5].tokens)]
    [(_, fresh, _)] = passes.read_blocks(whole, todo, place.teacher("tiny").load())
    block = corpus.facts.blocks[5]
    kept = cache.read(np.arange(block.first_row, block.first_row + block.rows), NEEDS)
    assert torch.equal(fresh[EMBEDDING], kept[EMBEDDING])


def test_one_row_alone_is_one_row_of_the_block(project):
    place = new_project(project, sentences(60))
    corpus = make_corpus(place)
    cache, _ = make_cache(place, corpus)
    encoder = place.teacher("tiny").load()
    for row in (0, 17, 59):
        from kdpipe.activations import Tokens
        from kdpipe.encoder import observe

        found = corpus.gather(np.array([row]))
        alone = observe(
            encoder,
            Tokens(torch.from_numpy(found.ids), torch.from_numpy(found.lengths)),
            NEEDS,
            "fp32",
        )
        kept = cache.read(np.array([row]), NEEDS)
        assert torch.allclose(alone[EMBEDDING], kept[EMBEDDING], atol=1e-5)
        assert torch.allclose(alone[Part("hidden", 2)], kept[Part("hidden", 2)], atol=1e-5)


def test_killed_at_any_block_the_rerun_gives_the_same_bytes_and_repeats_at_most_one(project):
    place = new_project(project, sentences(60))
    corpus = make_corpus(place)
    make_cache(place, corpus)
    golden = digests(place.cache_folder("said"))
    total = len(corpus.facts.blocks)
    script = textwrap.dedent("""
        import os, signal, sys
        from kdpipe import fill_blocks, io
        fill_blocks.SMALLEST, fill_blocks.SPREAD = 20, 100
        from tests.pieces import make_cache, new_project
        from kdpipe.project import Project
        import pathlib, tests.pieces as pieces
        place = Project(pathlib.Path("p.yaml"), pieces.pipeline(), pathlib.Path())
        left = int(sys.argv[1])
        publish = io.publish
        def dying(path, data):
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            publish(path, data)
        io.publish = dying
        make_cache(place, place.corpus("text"))
    """)
    done = {"PYTHONPATH": os.pathsep.join(sys.path), **os.environ}
    for point in (2, 9):
        subprocess.run(["rm", "-rf", ".kdpipe", "artifacts/caches"], check=True)
        dead = subprocess.run([sys.executable, "-c", script, str(point)], env=done, check=False)
        assert dead.returncode == -signal.SIGKILL
        shards = len(list((project / ".kdpipe").rglob("*.safetensors")))
        todo = missing(asking(place, corpus), place.store)
        questions = 3
        assert total - len(todo) >= shards // questions - 1
        make_cache(place, corpus)
        assert digests(place.cache_folder("said")) == golden


def test_a_damaged_shard_is_found_before_use_and_mended_by_verify(project):
    place = new_project(project, sentences(60))
    corpus = make_corpus(place)
    cache, _ = make_cache(place, corpus)
    victim = cache.folder / cache.manifest.files[4].name
    good = victim.read_bytes()
    with victim.open("r+b") as file:
        file.seek(len(good) - 3)
        file.write(b"\xff")
    broken = place.cache("said", corpus)
    rows = np.arange(60)
    with pytest.raises(ArtifactError, match=f"{victim.name} is damaged .* --verify"):
        broken.read(rows, NEEDS)
    questions = asking(place, corpus)
    assert missing(questions, place.store) == []
    todo = missing(questions, place.store, verify=True)
    assert len(todo) == 1
    teacher.answer(questions, todo, place.store, place.teacher("tiny").load)
    facts = teacher.facts(questions, place.store)
    teacher.finish(questions, facts, place.store, cache.folder, {"corpus": corpus.digest})
    assert victim.read_bytes() == good


def test_a_cache_of_another_corpus_is_refused_with_the_fields_that_differ(project):
    place = new_project(project, sentences(60))
    make_cache(place, make_corpus(place))
    write_text(project / "text.txt", sentences(50))
    corpus = make_corpus(place)
    with pytest.raises(ArtifactError, match="rows: 60 in the cache, 50 in the corpus") as error:
        place.cache("said", corpus)
    assert "run 'kdpipe cache-teacher pipeline.yaml said'" in str(error.value)


def test_nan_from_the_teacher_names_the_rows_and_keeps_nothing(project):
    place = new_project(project, sentences(60))
    corpus = make_corpus(place)
    questions = asking(place, corpus)

    def load() -> Encoder:
        encoder = place.teacher("tiny").load()
        encoder.model.embeddings.word_embeddings.weight.data[
            corpus.gather(np.array([7])).ids[2]
        ] = torch.nan
        return encoder

    with pytest.raises(NonFiniteError, match=r"is NaN or Inf for \d+ rows of block \d+ \(rows \["):
        teacher.answer(questions, missing(questions, place.store), place.store, load)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_other_number_types_state_their_difference_to_fp32(project, dtype):
    spec = {
        "corpus": "text",
        "teacher": "tiny",
        "dtype": dtype,
        "targets": [{"kind": "embedding"}],
    }
    place = new_project(project, sentences(60), caches={"said": spec})
    corpus = make_corpus(place)
    questions = Asking(corpus, place.teacher("tiny").identity, place.pipeline.caches["said"], dtype)
    todo = missing(questions, place.store)
    teacher.answer(questions, todo, place.store, place.teacher("tiny").load)
    facts = teacher.facts(questions, place.store)
    assert facts.difference is not None
    assert 0.99 < facts.difference.min_cosine <= 1.0
    assert 0.0 < facts.difference.max_abs < 0.1
    assert facts.difference.rows == min(32, corpus.facts.blocks[0].rows)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("bert.encoder.layer.1.intermediate.dense", "the teacher's embedding is NaN or Inf in fp16"
         " for 32 of 32 rows of the first block: use dtype: fp32"),
        ("classifier", "logits.fp32 is NaN or Inf for 60 rows of block 0 (rows [0, 1, 2, 3, 4]"
         " ...): keep it in fp32 or bf16 if fp16 overflows, use dtype: fp32, or take these rows"
         " out"),
    ],
)  # fmt: skip
def test_what_overflows_in_fp16_is_refused(project, monkeypatch, module, message):
    monkeypatch.setattr(fill_blocks, "SMALLEST", 1 << 16)
    tiny_headed_folder(project / "teacher", "sequence")
    target = {"kind": "logits", "storage": "fp32"}
    spec = {"corpus": "text", "teacher": "tiny", "dtype": "fp16", "targets": [target]}
    place = new_project(project, sentences(60), caches={"said": spec})
    who = place.teacher("tiny")
    questions = Asking(make_corpus(place), who.identity, place.pipeline.caches["said"], "fp16")

    def load() -> Encoder:
        encoder = who.load()
        encoder.model.get_submodule(module).weight.data.mul_(1e7)
        return encoder

    with pytest.raises(NonFiniteError) as caught:
        teacher.answer(questions, missing(questions, place.store), place.store, load)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("head", "target", "message"),
    [
        (None, {"kind": "hidden", "layers": [4, 5]}, "hidden states of layer 5, the teacher has 4"
         " layers: choose among them"),
        (None, {"kind": "qkv", "layers": [9], "parts": ["value"]}, "value of layer 9, the teacher"
         " has 4 layers: choose among them"),
        (None, {"kind": "logits"}, "logits, the teacher has no head: use a teacher that was trained"
         " for the task"),
        ("token", {"kind": "logits"}, "logits, the teacher gives token logits: change 'per' of the"
         " target"),
        ("sequence", {"kind": "logits", "per": "token"}, "token logits, the teacher gives logits:"
         " change 'per' of the target"),
    ],
)  # fmt: skip
def test_what_a_teacher_cannot_say_is_refused(project, head, target, message):
    if head is not None:
        tiny_headed_folder(project / "teacher", head)
    spec = {"corpus": "text", "teacher": "tiny", "dtype": "fp32", "targets": [target]}
    place = new_project(project, sentences(10), caches={"other": spec})
    with pytest.raises(UsageError) as caught:
        make_cache(place, make_corpus(place), "other")
    assert str(caught.value) == f"the cache asks for {message}"
    assert not place.cache_folder("other").exists()
