"""Models with heads: the logits of transformers, through folder, teacher, student and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from kdpipe import heads
from kdpipe.activations import Tokens
from kdpipe.encoder import Encoder, observe
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.folder import write_model
from kdpipe.load import load_encoder
from kdpipe.modules import default_prompt, head_of, own_limit
from kdpipe.parts import EMBEDDING, LOGITS, TOKEN_LOGITS, HeadKind, Part
from kdpipe.pipeline import Head, StudentSpec
from kdpipe.student import build_student
from kdpipe.tokenizer import load_tokenizer
from tests.tiny import SENTENCES, tiny_headed_folder, tiny_teacher_folder, tiny_tokenizer

FAMILIES = ["bert", "roberta", "distilbert", "electra", "modernbert", "mpnet"]
KINDS = {
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
}
CLASSES = ("sun", "rain", "snow")
SEVERAL = "multi_label_classification"
TEXTS = [SENTENCES[0], "", *SENTENCES[3:9], "the cat " * 12]
EACH = [(kind, family) for kind in KINDS for family in FAMILIES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """(kind, family) -> a model with a head."""
    root = tmp_path_factory.mktemp("heads")
    return {
        (kind, family): tiny_headed_folder(root / f"{kind}-{family}", kind, CLASSES, family=family)
        for kind, family in EACH
    }


def loaded(folder: Path) -> Encoder:
    return load_encoder(folder, head_of(folder))


def rows(texts: Any = TEXTS) -> Tokens:
    return Tokens.of(tiny_tokenizer().encode(texts, 32), 0)


def by_transformers(folder: Path, kind: str, tokens: Tokens) -> Tensor:
    """[B, C] or [B, T, C]: what the model of transformers says by itself."""
    model = KINDS[kind].from_pretrained(folder, local_files_only=True).eval()
    typed = model.config.model_type in {"bert", "electra"}
    types = {"token_type_ids": tokens.types()} if typed else {}
    mask = tokens.mask().long()
    with torch.inference_mode():
        said = model(input_ids=tokens.padded(0), attention_mask=mask, **types)
    if kind == "span":
        return torch.stack([said.start_logits, said.end_logits], -1)
    logits: Tensor = said.logits
    return logits


def part_of(kind: str) -> Part:
    return LOGITS if kind == "sequence" else TOKEN_LOGITS


def student_of(teacher: Encoder, head: dict[str, Any], **model: Any) -> Encoder:
    """A student with all layers of its teacher."""
    layers = list(range(1, teacher.dims.layers + 1))
    spec = {
        "caches": ["said"],
        "model": {"kind": "teacher_layers", "layers": layers, **model},
        "head": head,
        "objectives": [{"kind": "logits"}],
    }
    labels = ("high", "low")
    return build_student(StudentSpec.model_validate(spec), teacher, tiny_tokenizer(), labels).eval()


def own(encoder: Encoder) -> dict[str, Tensor]:
    """The weights of the head alone."""
    prefix = f"{encoder.model.base_model_prefix}."
    return {k: v for k, v in encoder.model.state_dict().items() if not k.startswith(prefix)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("kind", "family"), EACH)
def test_logits_are_those_of_transformers(folders, kind: str, family: str) -> None:
    encoder, tokens = loaded(folders[kind, family]), rows()
    part = part_of(kind)
    assert encoder.answers == kind
    assert encoder.voice == part
    assert encoder.gives == {part}
    said = observe(encoder, tokens, frozenset({part}), "fp32")
    wanted = by_transformers(folders[kind, family], kind, tokens)
    if kind == "sequence":
        assert said[part].shape == (len(TEXTS), 3)
    else:
        # Padding is left out: as many vectors as there are tokens.
        assert said[part].shape == (len(tokens.ids), 2 if kind == "span" else 3)
        wanted = wanted[tokens.mask()]
    torch.testing.assert_close(said[part], wanted, rtol=0, atol=1e-5)
    assert said[part].std() > 1e-3


@pytest.mark.parametrize("family", ["bert", "electra", "modernbert"])
def test_logits_of_pairs_are_those_of_transformers(folders, family: str) -> None:
    tokens = rows([("The cat sleeps.", "A dog waits at the door."), ("A dog.", "")])
    folder = folders["sequence", family]
    said = observe(loaded(folder), tokens, frozenset({LOGITS}), "fp32")[LOGITS]
    wanted = by_transformers(folder, "sequence", tokens)
    torch.testing.assert_close(said, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "family"), EACH)
def test_all_parts_are_the_same_with_and_without_the_head(folders, kind: str, family: str) -> None:
    encoder, tokens = loaded(folders[kind, family]), rows()
    states = {EMBEDDING, *(Part("hidden", layer) for layer in (0, 1, 2)), Part("value", 2)}
    base = Encoder(encoder.base, encoder.head, [])
    wanted = observe(base, tokens, frozenset(states), "fp32")
    alone = observe(encoder, tokens, frozenset(states), "fp32")
    beside = observe(encoder, tokens, frozenset(states | {part_of(kind)}), "fp32")
    for part in states:
        torch.testing.assert_close(alone[part], wanted[part], rtol=0, atol=1e-6)
        torch.testing.assert_close(beside[part], wanted[part], rtol=0, atol=1e-6)
    lone = observe(encoder, tokens, frozenset({EMBEDDING}), "fp32")[EMBEDDING]
    torch.testing.assert_close(lone, wanted[EMBEDDING], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "classes", "problem", "found"),
    [
        ("sequence", CLASSES, None, ("single_label_classification", CLASSES)),
        ("sequence", CLASSES, SEVERAL, (SEVERAL, CLASSES)),
        ("sequence", ("LABEL_0",), None, ("regression", ("score",))),
        ("sequence", ("LABEL_0",), "regression", ("regression", ("score",))),
        ("sequence", ("a", "b"), "regression", ("regression", ("a", "b"))),
        ("token", CLASSES, None, ("token", CLASSES)),
        ("span", (), None, ("span", ("start", "end"))),
    ],
)
def test_what_a_folder_says_its_logits_mean(tmp_path, kind, classes, problem, found) -> None:
    dims = loaded(tiny_headed_folder(tmp_path, kind, classes, problem, layers=1)).dims
    assert (dims.problem, dims.classes) == found
    assert dims.width(part_of(kind)) == len(found[1])


def test_classes_have_the_order_of_their_numbers(tmp_path) -> None:
    names = tuple(f"c{number}" for number in range(12))
    assert loaded(tiny_headed_folder(tmp_path, "token", names, layers=1)).dims.classes == names


def test_a_folder_without_a_head_has_no_logits(tmp_path) -> None:
    encoder = loaded(tiny_teacher_folder(tmp_path))
    assert (encoder.answers, encoder.voice, encoder.gives) == (None, EMBEDDING, frozenset())
    assert (encoder.dims.problem, encoder.dims.classes) == (None, ())
    config = AutoConfig.for_model("bert")
    assert heads.kind_of(config) is None
    config.architectures = ["BertForMaskedLM"]
    assert heads.kind_of(config) is None


@pytest.mark.parametrize("lost", ["classifier.weight", "bert.pooler.dense.bias"])
def test_a_head_without_its_weights_is_refused(tmp_path, lost: str) -> None:
    tiny_headed_folder(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights[lost]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ArtifactError) as caught:
        loaded(tmp_path)
    assert str(caught.value) == (f"{tmp_path}: its weights lack {lost}, which config.json asks for")


@pytest.mark.parametrize(("kind", "family"), EACH)
def test_a_student_with_all_layers_says_what_its_teacher_says(folders, kind, family) -> None:
    teacher, tokens = loaded(folders[kind, family]), rows()
    student = student_of(teacher, {"kind": kind})
    assert (student.answers, student.dims) == (kind, teacher.dims)
    part = frozenset({part_of(kind)})
    mine, theirs = (observe(one, tokens, part, "fp32") for one in (student, teacher))
    torch.testing.assert_close(mine[part_of(kind)], theirs[part_of(kind)], rtol=0, atol=1e-6)
    assert all(parameter.requires_grad for parameter in student.parameters())


@pytest.mark.parametrize(
    ("kind", "head", "model"),
    [
        ("sequence", {"kind": "sequence", "classes": ["rain", "sun", "snow"]}, {}),
        ("sequence", {"kind": "sequence", "classes": ["a", "b"]}, {}),
        ("token", {"kind": "sequence"}, {}),
        ("sequence", {"kind": "token"}, {}),
        ("sequence", {"kind": "span"}, {}),
        ("span", {"kind": "token"}, {}),
        ("sequence", {"kind": "sequence", "problem_type": "regression"}, {}),
        ("sequence", {"kind": "sequence"}, {"hidden_size": 16}),
    ],
)
@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_a_head_that_does_not_fit_is_a_fresh_one(folders, family, kind, head, model) -> None:
    teacher = loaded(folders[kind, family])
    student = student_of(teacher, head, **model)
    assert not same(own(student), own(teacher))
    assert same(own(student), own(student_of(teacher, head, **model)))
    if not model:
        mine, theirs = student.base.state_dict(), teacher.base.state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine.keys() & theirs.keys())
        assert {name.partition(".")[0] for name in mine.keys() ^ theirs.keys()} <= {"pooler"}
    said = observe(student, rows(), student.gives, "fp32")[student.voice]
    assert said.shape[1] == len(student.dims.classes)


def test_classes_come_from_the_section_the_teacher_or_the_corpus(folders) -> None:
    tagger = loaded(folders["token", "bert"])
    assert student_of(tagger, {"kind": "token", "classes": ["x", "y"]}).dims.classes == ("x", "y")
    assert student_of(tagger, {"kind": "token"}).dims.classes == CLASSES
    assert student_of(tagger, {"kind": "sequence"}).dims.classes == ("high", "low")
    number = student_of(tagger, {"kind": "sequence", "problem_type": "regression"}).dims
    assert (number.classes, number.problem) == (("score",), "regression")
    span = student_of(tagger, {"kind": "span"}).dims
    assert (span.classes, span.problem) == (("start", "end"), "span")
    spec = {"corpus": "text", "model": {"kind": "shape"}, "head": {"kind": "token"}}
    made = StudentSpec.model_validate(spec | {"objectives": [{"kind": "labels"}]})
    with pytest.raises(UsageError) as caught:
        build_student(made, None, tiny_tokenizer(), ("only",))
    assert str(caught.value) == (
        "the head of the student needs classes, the corpus has 1 different labels: set label_column"
        " of its sources, or 'classes' of the head"
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"kind": "sequence", "classes": ["a", "b", "a"]},
            "classes ['a', 'b', 'a']: each has",
        ),
        ({"kind": "span", "classes": ["a", "b"]}, "this head tells no classes apart: take out"),
        (
            {"kind": "sequence", "problem_type": "regression", "classes": ["a", "b"]},
            "this head tells no classes apart: take out 'classes'",
        ),
        ({"kind": "token", "problem_type": SEVERAL}, "key 'problem_type' is about rows: use kind:"),
    ],
)
def test_heads_that_cannot_be(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Head.model_validate(keys)
    assert message in str(caught.value)


def test_a_head_has_no_width_of_an_embedding(folders) -> None:
    spec: dict[str, Any] = {"caches": ["said"], "model": {"kind": "shape"}, "embedding_size": 8}
    spec |= {"head": {"kind": "span"}, "objectives": [{"kind": "logits"}]}
    with pytest.raises(ValidationError, match="key 'embedding_size' is about sentence embeddings"):
        StudentSpec.model_validate(spec)


def test_a_regression_takes_over_the_head_of_one(tmp_path) -> None:
    teacher = loaded(tiny_headed_folder(tmp_path, "sequence", ("LABEL_0",)))
    student = student_of(teacher, {"kind": "sequence", "problem_type": "regression"})
    assert same(own(student), own(teacher))
    assert student.dims == teacher.dims


@pytest.mark.parametrize(("kind", "family"), EACH)
def test_a_student_is_the_same_in_its_folder(folders, tmp_path, kind, family) -> None:
    teacher = loaded(folders["sequence", family])
    problem = {"problem_type": SEVERAL} if kind == "sequence" else {}
    classes = {} if kind == "span" else {"classes": ["red", "hot", "new", "old"]}
    student = student_of(teacher, {"kind": kind, **problem, **classes})
    tokenizer = tiny_tokenizer()
    names = write_model(tmp_path, student, tokenizer, max_seq_length=24, prompt="ask: ")
    assert "modules.json" not in names
    assert (own_limit(tmp_path), default_prompt(tmp_path)) == (24, "ask: ")
    again = loaded(tmp_path)
    assert again.dims == student.dims
    part = student.voice
    wanted = observe(student, rows(), student.gives, "fp32")[part]
    torch.testing.assert_close(
        observe(again, rows(), again.gives, "fp32")[part], wanted, rtol=0, atol=0
    )
    theirs, loading = KINDS[kind].from_pretrained(
        tmp_path, local_files_only=True, output_loading_info=True
    )
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert [type(theirs).__name__] == theirs.config.architectures
    said = by_transformers(tmp_path, kind, rows())
    said = said if kind == "sequence" else said[rows().mask()]
    torch.testing.assert_close(said, wanted, rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "config.json").read_text())
    numbered = {str(number): name for number, name in enumerate(student.dims.classes)}
    if kind != "span":
        assert config["id2label"] == numbered
        assert config["label2id"] == {name: int(number) for number, name in numbered.items()}
    assert config.get("problem_type") == problem.get("problem_type")
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("family", FAMILIES)
def test_pipelines_of_transformers_say_the_labels(folders, tmp_path, family) -> None:
    for kind, task in (("sequence", "text-classification"), ("token", "token-classification")):
        student = student_of(loaded(folders[kind, family]), {"kind": kind})
        folder = tmp_path / kind
        write_model(folder, student, tiny_tokenizer(), max_seq_length=32, prompt="")
        ask = pipeline(task, model=str(folder), device="cpu")  # type: ignore[call-overload]
        logits = observe(student, rows([TEXTS[0]]), student.gives, "fp32")[student.voice]
        likely = (logits if kind == "sequence" else logits[1:-1]).softmax(-1).max(-1)
        wanted = [CLASSES[place] for place in likely.indices.tolist()]
        found = ask(TEXTS[0])
        assert [one.get("label", one.get("entity")) for one in found] == wanted
        assert [one["score"] for one in found] == pytest.approx(likely.values.tolist(), abs=1e-5)


def test_answers_can_be_had_of_a_student_that_finds_them(folders, tmp_path) -> None:
    student = student_of(loaded(folders["span", "bert"]), {"kind": "span"})
    write_model(tmp_path, student, tiny_tokenizer(), max_seq_length=32, prompt="")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path, local_files_only=True).eval()
    batch = tokenizer("Who waits?", "The dog waits.", return_tensors="pt")
    with torch.inference_mode():
        said = model(**batch)
    found = observe(student, rows([("Who waits?", "The dog waits.")]), student.gives, "fp32")
    wanted = torch.stack([said.start_logits[0], said.end_logits[0]], -1)
    torch.testing.assert_close(found[TOKEN_LOGITS], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_a_student_from_a_checkpoint_goes_on_with_its_head(tmp_path: Path, kind: HeadKind) -> None:
    """As long as its classes are the same; else the head is a fresh one."""
    folder = tiny_headed_folder(tmp_path / "start", kind, CLASSES)
    start = load_encoder(folder, head_of(folder))

    def built(classes: tuple[str, ...]) -> Encoder:
        spec = StudentSpec.model_validate(
            {
                "corpus": "text",
                "model": {"kind": "checkpoint", "model": str(folder)},
                "head": {"kind": kind, "classes": list(classes)},
                "objectives": [{"kind": "labels"}],
            }
        )
        return build_student(spec, None, tiny_tokenizer(), ())

    kept, fresh = built(tuple(CLASSES)), built(tuple(reversed(CLASSES)))
    ours, theirs, other = (one.model.state_dict() for one in (kept, start, fresh))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(other["classifier.weight"], theirs["classifier.weight"])
