"""Students that are no transformers: from a pipeline file to a folder and back, for all heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from kdpipe import checkpoint, job, train
from kdpipe.activations import Tokens
from kdpipe.encoder import Encoder, ask, observe
from kdpipe.errors import UsageError
from kdpipe.modules import HeadSpec, position_limit
from kdpipe.parts import EMBEDDING, LOGITS, TOKEN_LOGITS, Part
from kdpipe.project import open_project
from kdpipe.students import CNNLSTMStudent, IDCNNStudent, RecurrentStudent
from kdpipe.tokenizer import load_tokenizer
from tests.small import (
    SEQUENCE,
    SMALL,
    TEXT,
    TOKEN,
    TRAIN,
    loaded,
    made,
    reviews,
    run,
    tagged,
    write,
)
from tests.tiny import SENTENCES, tiny_encoder, tiny_tokenizer

NETS = {"cnn_lstm": CNNLSTMStudent, "id_cnn": IDCNNStudent}


def recurrent(cell: str = "lstm", **keys: Any) -> dict[str, Any]:
    return {"kind": "recurrent", "cell": cell, **SMALL, **keys}


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_recurrent_classifier_learns_labels_and_comes_back(project, cell):
    task = {"kind": "classification", "file": "reviews.tsv"}
    write(project, {"s": SEQUENCE | {"model": recurrent(cell, dropout=0.1), "evaluate": [task]}})
    for command in ("tokenize", "train", "evaluate"):
        run(command, "p.yaml", *(["reviews"] if command == "tokenize" else []))
    folder = project / "artifacts/students/s"
    scores = json.loads((project / "reports/s/metrics.json").read_text())
    assert scores["student"]["classification.accuracy"] > 0.95
    assert scores["untrained"]["classification.accuracy"] < 0.8

    encoder, tokenizer = loaded(folder), load_tokenizer(folder)
    assert tokenizer.fingerprint == tiny_tokenizer().fingerprint
    texts = [text for text, _ in reviews()]
    tokens = Tokens.of(tokenizer.encode(texts, 32), 0)
    said = ask(encoder, tokens, LOGITS, "fp32")
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
    assert model.config.id2label == {0: "bad", 1: "good"}
    reader = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with torch.inference_mode():
        theirs = model.eval()(**reader(texts, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(theirs, said, rtol=0, atol=1e-5)


def test_a_recurrent_tagger_learns_tags_and_comes_back(project):
    task = {"kind": "tagging", "file": "tags.conll"}
    model = recurrent(num_layers=2)
    write(project, {"s": TOKEN | {"model": model, "evaluate": [task]}})
    for command in ("tokenize", "train", "evaluate"):
        run(command, "p.yaml", *(["tags"] if command == "tokenize" else []))
    folder = project / "artifacts/students/s"
    scores = json.loads((project / "reports/s/metrics.json").read_text())
    assert scores["student"]["tagging.f1"] > 0.95
    encoder, tokenizer = loaded(folder), load_tokenizer(folder)
    rows = [words for words, _ in tagged()]
    tokens = Tokens.of(tokenizer.encode_words(rows, 32), 0)
    said = ask(encoder, tokens, TOKEN_LOGITS, "fp32")
    model = AutoModelForTokenClassification.from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        mask = tokens.mask()
        theirs = model(input_ids=tokens.padded(0), attention_mask=mask.long()).logits[mask]
    torch.testing.assert_close(theirs, said, rtol=0, atol=1e-5)
    page = (folder / "README.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    assert code.startswith("import kdpipe.nets.pretrained  #")
    exec(code.replace("path/to/s", str(folder)), {})
    assert position_limit(folder) > 10_000  # nothing in it counts positions

    (project / "new.txt").write_text("The ship is near a red lamp .\n")
    run("predict", str(folder), "new.txt", "tags.jsonl")
    said = json.loads((project / "tags.jsonl").read_text())
    assert said["tags"] == ["O", "B-THING", "O", "O", "O", "O", "B-THING", "O"]


def test_a_recurrent_student_of_embeddings_and_hidden_states(project):
    student = {
        "caches": ["said"],
        "model": recurrent("gru", num_layers=2, embeddings="teacher"),
        "objectives": [
            {"kind": "embedding"},
            {"kind": "hidden", "layers": "uniform"},
            {"kind": "hidden", "layers": {0: 0, 1: 2}, "loss": "cosine", "projection": "tanh"},
        ],
    }
    write(project, {"s": student})
    for command in ("tokenize", "cache-teacher", "train", "evaluate"):
        run(command, "p.yaml")
    folder = project / "artifacts/students/s"
    scores = json.loads((project / "reports/s/metrics.json").read_text())
    better = [scores[who]["fidelity.cosine"] for who in ("untrained", "student")]
    assert better[0] + 0.2 < better[1]
    maps = load_file(folder / "projections.safetensors")
    assert {name: (*value.shape,) for name, value in maps.items() if "weight" in name} == {
        "1-hidden.0.weight": (32, 16),
        "1-hidden.1.weight": (32, 24),
        "1-hidden.2.weight": (32, 24),
        "2-hidden.0.0.weight": (32, 16),
        "2-hidden.1.0.weight": (32, 24),
    }
    encoder, texts = loaded(folder), SENTENCES[:20]
    tokens = Tokens.of(tiny_tokenizer().encode(texts, 32), 0)
    said = ask(encoder, tokens, EMBEDDING, "fp32").numpy()
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    np.testing.assert_allclose(
        theirs.encode(texts, show_progress_bar=False), said, rtol=0, atol=1e-5
    )
    base = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        states = base(tokens.padded(0), tokens.mask().long(), output_hidden_states=True)
    assert [one.shape[-1] for one in states.hidden_states] == [16, 24, 24]
    for layer, state in enumerate(states.hidden_states):
        part = Part("hidden", layer)
        mine = observe(encoder, tokens, frozenset({part}), "fp32")[part]
        torch.testing.assert_close(mine, state[tokens.mask()], rtol=0, atol=1e-6)


def test_a_shared_map_is_refused_where_widths_differ(project):
    objective = {"kind": "hidden", "layers": "uniform", "share_projection": True}
    write(project, {"s": {"caches": ["said"], "model": recurrent(), "objectives": [objective]}})
    for command in ("tokenize", "cache-teacher"):
        run(command, "p.yaml")
    place = open_project(Path("p.yaml"))
    with pytest.raises(UsageError) as caught:
        job.prepare(place, "s", *place.inputs("s"), "cpu")
    assert str(caught.value) == (
        "objective 'hidden': layer 0 has another width than the layers above it: leave it out, or"
        " set share_projection: false"
    )


@pytest.mark.parametrize("stop_after", [1, 7])
def test_a_recurrent_student_is_the_same_again_and_after_a_stop(project, stop_after):
    settings = TRAIN | {"max_steps": 9, "eval_steps": 4}
    model = recurrent(num_layers=2, dropout=0.3)
    place = write(project, {"s": SEQUENCE | {"model": model, "train": settings}})
    run("tokenize", "p.yaml", "reviews")

    def new() -> job.Job:
        return job.prepare(place, "s", *place.inputs("s"), "cpu")

    straight, stopped, resumed = new(), new(), new()
    assert job.carry_out(straight, project / "a") is None
    for step in train.fit(stopped.run):
        stopped.log.add(step, full=step.measured is not None)
        if step.number == stop_after:
            checkpoint.save(project / "b", stopped.run, vars(stopped.log))
            break
    assert job.carry_out(resumed, project / "b") is None
    ends = [one.run.modules.state_dict() for one in (straight, resumed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    moved = new().run.modules.state_dict()
    assert not any(torch.equal(ends[0][name], moved[name]) for name in moved)


def test_padding_changes_nothing_that_a_recurrent_student_says():
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    model = RecurrentStudent(kind="recurrent", num_layers=2).build(None, tokenizer)
    encoder = Encoder(model, HeadSpec(("mean", "max")), []).eval()
    tokens = Tokens.of(tokenizer.encode([*SENTENCES[:5], "the cat " * 15], 64), 0)
    together = observe(encoder, tokens, frozenset({EMBEDDING}), "fp32")[EMBEDDING]
    for row in range(len(tokens)):
        alone = tokens.take(torch.tensor([row]))
        said = observe(encoder, alone, frozenset({EMBEDDING}), "fp32")[EMBEDDING]
        torch.testing.assert_close(said[0], together[row], rtol=0, atol=1e-6)


def weights(model: PreTrainedModel) -> torch.Tensor:
    """Its table of words."""
    return model.get_input_embeddings().weight.detach()


def tables(**keys: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's table of tokens, centred, and the student's."""
    teacher = tiny_encoder()
    student = RecurrentStudent(kind="recurrent", embeddings="teacher", **keys)
    built = student.build(teacher, tiny_tokenizer())
    theirs = weights(teacher.model).double()
    return theirs - theirs.mean(0), weights(built).double()


def test_a_table_as_wide_as_the_teachers_is_the_teachers():
    theirs, mine = tables(word_width=32)
    assert not mine[0].any()  # padding
    torch.testing.assert_close(mine[1:] * theirs.std(), theirs[1:], rtol=0, atol=1e-6)


def test_a_narrower_table_is_the_best_of_its_rank():
    theirs, mine = tables(word_width=10)
    left, values, _ = torch.linalg.svd(theirs, full_matrices=False)
    best = left[:, :10] * values[:10]
    products = best @ best.T / best.var()
    torch.testing.assert_close((mine @ mine.T)[1:, 1:], products[1:, 1:], rtol=0, atol=1e-4)
    assert mine[1:].std().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("keys", "teacher", "message"),
    [
        (
            {"word_width": 33},
            True,
            "word_width 33 is more than the teacher's 32: use embeddings: fresh",
        ),
        (
            {},
            False,
            "embeddings: teacher needs a teacher that reads the tokens of the corpus: use"
            " embeddings: fresh",
        ),
    ],
)
def test_a_table_that_cannot_be_had(keys, teacher, message):
    student = RecurrentStudent(kind="recurrent", embeddings="teacher", **keys)
    with pytest.raises(UsageError) as caught:
        student.build(tiny_encoder() if teacher else None, tiny_tokenizer())
    assert str(caught.value) == message


def test_what_pads_is_no_token_of_its_own():
    """Families that pad with another id than 0, or with none, keep all rows of their tables."""
    tokenizer = tiny_tokenizer()
    model = RecurrentStudent(kind="recurrent").build(None, tokenizer)
    assert model.config.pad_token_id == 0
    assert not weights(model)[0].any()
    special = {**tokenizer.special, "pad_token": "[MASK]"}
    mask = tokenizer.backend.token_to_id("[MASK]")
    model = RecurrentStudent(kind="recurrent").build(
        None, type(tokenizer)(tokenizer.backend, special, tokenizer.input_names)
    )
    empty = [row for row in range(tokenizer.vocabulary) if not weights(model)[row].any()]
    assert empty == [mask]
    del special["pad_token"]
    model = RecurrentStudent(kind="recurrent").build(
        None, type(tokenizer)(tokenizer.backend, special, tokenizer.input_names)
    )
    assert weights(model).any(1).all()
    assert model.get_input_embeddings().padding_idx is None


def test_a_span_head_is_refused(project):
    place = write(
        project, {"s": {"corpus": "reviews", "model": recurrent(), "head": {"kind": "span"}}}
    )
    run("tokenize", "p.yaml", "reviews")
    with pytest.raises(UsageError) as caught:
        job.prepare(place, "s", *place.inputs("s"), "cpu")
    assert str(caught.value) == (
        "a 'kdpipe-recurrent' model has no head of kind 'span': use another kind of model"
    )


@pytest.mark.parametrize("kind", ["cnn_lstm", "id_cnn"])
def test_tokens_that_are_no_words_are_refused(kind):
    with pytest.raises(UsageError) as caught:
        NETS[kind](kind=kind).build(None, tiny_tokenizer())
    assert str(caught.value) == (
        f"a student of kind {kind!r} reads whole words: give its corpus tokenizer: {{kind: words}}"
    )


@pytest.mark.parametrize("kind", ["cnn_lstm", "id_cnn"])
def test_a_model_is_told_what_it_misses(project, kind):
    model = NETS[kind](kind=kind).build(None, made(TEXT))
    what = {"cnn_lstm": "characters", "id_cnn": "shapes"}[kind]
    with pytest.raises(UsageError) as caught:
        model(torch.tensor([[3, 4]]))
    assert str(caught.value) == (
        f"this model reads the {what} of words: give it '{what}', which"
        f" kdpipe.nets.features.{what.removesuffix('s')}_array makes"
    )
