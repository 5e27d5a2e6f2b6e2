"""A tagger with a CRF: its loss, its tags and its files; and the penalty of dropout."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from kdpipe.activations import Activations, Dims, Tokens
from kdpipe.encoder import Encoder, observe
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.modules import HeadSpec
from kdpipe.nets.crf import CRF
from kdpipe.objectives import DropoutPenalty, MatchLabels, MatchLogits
from kdpipe.objectives.base import Pairing, Seen
from kdpipe.parts import LOGITS, TOKEN_LOGITS
from kdpipe.pipeline import Head, StudentSpec
from kdpipe.project import open_project
from kdpipe.sources.row import Row
from kdpipe.student import build_student
from kdpipe.tasks.subject import Subject
from kdpipe.tasks.tagging import tags_of
from tests.small import TRAIN, loaded, run, tagged, write
from tests.tiny import tiny_encoder, tiny_tokenizer

CLASSES = ("B-X", "I-X", "O")
DIMS = Dims(embedding=4, hidden=4, layers=1, classes=CLASSES, problem="token")
PAIR = Pairing(DIMS, DIMS)
STEADY = TOKEN_LOGITS._replace(steady=True)


def crf(scale: float = 1.0) -> CRF:
    torch.manual_seed(0)
    net = CRF(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape))
    return net


def score(net: CRF, said: torch.Tensor, path: tuple[int, ...]) -> float:
    """Of one sequence of labels for the emissions [W, C] of a row."""
    total = net.start[path[0]] + net.end[path[-1]]
    total = total + sum(said[place, label] for place, label in enumerate(path))
    total = total + sum(net.transitions[one, other] for one, other in itertools.pairwise(path))
    return float(total.detach())


def paths(words: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(3), repeat=words))


# Three rows of tokens; 1 begins a word, 0 goes on with it, a token before and behind is special.
WORDS = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 0]).bool()
LENGTHS = torch.tensor([6, 3, 4])
AT = [[1, 3, 4], [7], [10, 11]]


def seen(gold: list[list[int]], words: torch.Tensor | None = WORDS, **more: Any) -> Seen:
    """Logits of the tokens above, and labels of their words, -100 for none."""
    logits = torch.randn(13, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = torch.full((13,), -100)
    for places, row in zip(AT, gold, strict=True):
        labels[places] = torch.tensor(row)
    said = Activations(LENGTHS, {TOKEN_LOGITS: logits}, crf())
    return Seen(said, Activations(LENGTHS, {}), labels, words, **more)


def expected(gold: list[list[int]], given: Seen) -> float:
    """Negative log-likelihood of the known labels, mean over them, by enumeration."""
    net, total, known = given.student.crf, 0.0, 0
    assert net is not None
    for places, row in zip(AT, gold, strict=True):
        said = given.student[TOKEN_LOGITS][places].detach()
        weights = {path: math.exp(score(net, said, path)) for path in paths(len(row))}
        fits = [
            weight
            for path, weight in weights.items()
            if all(label in (-100, path[at]) for at, label in enumerate(row))
        ]
        total -= math.log(sum(fits) / sum(weights.values()))
        known += sum(label >= 0 for label in row)
    return total / known


@pytest.mark.parametrize(
    "gold",
    [
        [[0, 1, 2], [2], [0, 1]],
        [[0, -100, 2], [-100], [-100, 1]],
    ],
    ids=["all labelled", "some labelled"],
)
def test_labels_are_those_of_whole_rows(gold):
    given = seen(gold)
    loss = MatchLabels(kind="labels").compute(given, PAIR, torch.nn.ModuleDict())
    assert loss.item() == pytest.approx(expected(gold, given), abs=1e-6)
    loss.backward()
    grad = given.student[TOKEN_LOGITS].grad
    assert grad is not None
    assert not grad[~WORDS].any()  # other tokens than the first of a word take no part
    assert grad[WORDS].any(1).tolist() == [True] * 3 + [gold[1] != [-100]] + [True] * 2
    for parameter in given.student.crf.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


def test_a_word_that_the_teacher_has_not_is_still_one():
    """Batches leave out words without a counterpart in the teacher's tokens."""
    gold = [[0, 1, 2], [2], [0, 1]]
    shorter = WORDS.clone()
    shorter[[3, 11]] = False
    losses = [
        MatchLabels(kind="labels").compute(seen(gold, words), PAIR, torch.nn.ModuleDict()).item()
        for words in (WORDS, shorter)
    ]
    assert losses[0] == losses[1]


def test_no_label_at_all_is_no_loss():
    nothing = [[-100] * len(places) for places in AT]
    given = seen(nothing)
    loss = MatchLabels(kind="labels").compute(given, PAIR, torch.nn.ModuleDict())
    loss.backward()
    assert loss.item() == 0.0
    assert not given.student[TOKEN_LOGITS].grad.any()


def test_pseudo_labels_fill_what_is_not_labelled():
    gold = [[0, -100, 2], [-100], [-100, 1]]
    given = seen(gold)
    theirs = torch.full((13, 3), -9.0)
    for place, label in ((3, 1), (7, 2), (10, 0)):
        theirs[place, label] = 9.0
    given = Seen(
        given.student, Activations(LENGTHS, {TOKEN_LOGITS: theirs}), given.gold, given.words
    )
    objective = MatchLabels(kind="labels", pseudo_labels=True, confidence=0.9)
    loss = objective.compute(given, PAIR, torch.nn.ModuleDict())
    filled = [[0, 1, 2], [2], [0, 1]]
    assert loss.item() == pytest.approx(expected(filled, given), abs=1e-6)


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_logits_through_the_crf_are_probabilities_over_whole_rows(reduction):
    given = seen([[-100] * len(places) for places in AT])
    theirs = torch.randn(13, 3, generator=torch.Generator().manual_seed(5))
    given = Seen(given.student, Activations(LENGTHS, {TOKEN_LOGITS: theirs}), None, WORDS)
    net, rows = given.student.crf, []
    assert net is not None
    for places in AT:
        said = given.student[TOKEN_LOGITS][places].detach()
        weights = {path: math.exp(score(net, said, path)) for path in paths(len(places))}
        mine = torch.zeros(len(places), 3)
        for path, weight in weights.items():
            for at, label in enumerate(path):
                mine[at, label] += weight / sum(weights.values())
        wanted = theirs[places].softmax(-1)
        rows.append((wanted * (wanted.log() - mine.log())).sum(-1))
    each = [row.mean() for row in rows] if reduction == "sequence" else [torch.cat(rows).mean()]
    objective = MatchLogits(kind="logits", through_crf=True, reduction=reduction)
    loss = objective.compute(given, PAIR, torch.nn.ModuleDict())
    assert loss.item() == pytest.approx(sum(each).item() / len(each), abs=1e-6)
    plain = MatchLogits(kind="logits", reduction=reduction)
    assert plain.compute(given, PAIR, torch.nn.ModuleDict()).item() != pytest.approx(loss.item())
    loss.backward()
    assert all(parameter.grad.any() for parameter in net.parameters())
    grad = given.student[TOKEN_LOGITS].grad
    assert grad is not None
    assert not grad[~WORDS].any()


def tagger(net: CRF | None) -> Encoder:
    """A random transformer with a head for tokens."""
    spec = {
        "corpus": "c",
        "model": {"kind": "shape", "num_hidden_layers": 1, "hidden_size": 16}
        | {"num_attention_heads": 2, "intermediate_size": 16, "initializer_range": 1.0},
        "head": {"kind": "token", "classes": CLASSES},
        "objectives": [{"kind": "labels"}],
    }
    built = build_student(StudentSpec.model_validate(spec), None, tiny_tokenizer(), ())
    built.crf = net
    return built.eval()


def test_tags_are_the_best_of_the_whole_row():
    rows = [
        Row(" ".join(words), words=tuple(words))
        for words in (["cat", "Xylophones", "sleep"], ["unheard", "of"], [], ["rain"])
    ]
    rows *= 120  # more than are decoded at a time
    net = crf(scale=3.0)
    subject = Subject("s", tagger(net), tiny_tokenizer(), 32, "", "fp32")
    found = tags_of(subject, rows)
    greedy = tags_of(Subject("s", tagger(None), tiny_tokenizer(), 32, "", "fp32"), rows)
    assert found != greedy
    encoded = tiny_tokenizer().encode_words([row.words or () for row in rows[:4]], 32)
    assert encoded.word_of is not None
    tokens = Tokens.of(encoded, 0)
    said = observe(subject.encoder, tokens, frozenset({TOKEN_LOGITS}), "fp32")
    first = 0
    for number, (row, length) in enumerate(zip(rows[:4], encoded.lengths.tolist(), strict=True)):
        here = slice(first, first + length)
        words = encoded.word_of[here].tolist()
        at = [words.index(word) for word in range(len(row.words or ()))]
        logits = said[TOKEN_LOGITS][here][at]
        best = max(paths(len(at)), key=lambda path: score(net, logits, path)) if at else ()
        wanted = [CLASSES[label] for label in best]
        assert found[number::4] == [wanted] * 120
        assert greedy[number] == [CLASSES[label] for label in logits.argmax(1).tolist()]
        first += length


def test_a_transformer_with_a_crf_comes_back(project):
    student = {
        "corpus": "tags",
        "model": {"kind": "checkpoint", "model": "teacher"},
        "head": {"kind": "token", "crf": True},
        "train": TRAIN | {"max_steps": 20, "eval_steps": 5, "learning_rate": 5e-2},
    }
    write(project, {"s": student})
    run("tokenize", "p.yaml", "tags")
    run("train", "p.yaml")
    folder = project / "artifacts/students/s"
    encoder = loaded(folder)
    assert encoder.crf is not None
    kept = load_file(folder / "crf.safetensors")
    assert {name: (*value.shape,) for name, value in kept.items()} == {
        "start": (2,),
        "end": (2,),
        "transitions": (2, 2),
    }
    assert all(torch.equal(value, encoder.crf.state_dict()[name]) for name, value in kept.items())
    assert "crf" not in " ".join(load_file(folder / "model.safetensors"))
    assert "`kdpipe predict path/to/s my.txt tags.jsonl`" in (folder / "README.md").read_text()
    manifest = json.loads((folder / "manifest.json").read_text())
    files = [file["name"] for file in manifest["files"]]
    assert "crf.safetensors" in files
    assert ("last/crf.safetensors" in files) == (folder / "last").is_dir()
    start = build_student(
        open_project(Path("p.yaml")).pipeline.students["s"], None, tiny_tokenizer(), ("B", "O")
    )
    assert not any(torch.equal(kept[name], value) for name, value in start.crf.state_dict().items())
    words = tagged()[0][0]
    (project / "new.txt").write_text(f"{' '.join(words)}\n")
    run("predict", str(folder), "new.txt", "tags.jsonl")
    subject = Subject("s", encoder, tiny_tokenizer(), 32, "", "fp32")
    wanted = tags_of(subject, [Row(" ".join(words), words=tuple(words))])[0]
    assert json.loads((project / "tags.jsonl").read_text())["tags"] == wanted

    save_file({"start": torch.zeros(3)}, folder / "crf.safetensors")
    with pytest.raises(ArtifactError, match=r"crf\.safetensors: the CRF cannot be loaded"):
        loaded(folder)


def test_where_a_crf_cannot_be():
    with pytest.raises(ValidationError, match="key 'crf' is about tags of words: use kind: token"):
        Head(kind="sequence", crf=True)
    spec = {
        "caches": ["c"],
        "model": {"kind": "recurrent"},
        "head": {"kind": "token", "crf": True},
        "objectives": [{"kind": "logits"}],
    }
    with pytest.raises(ValidationError) as caught:
        StudentSpec.model_validate(spec)
    assert (
        "head: crf learns from an objective of kind 'labels', or 'logits' with through_crf: add one"
        " (pseudo_labels: true where there are no labels)"
    ) in str(caught.value)
    spec["objectives"] = [{"kind": "logits", "through_crf": True}]
    StudentSpec.model_validate(spec)
    spec["head"] = {"kind": "token"}
    with pytest.raises(
        ValidationError, match="'logits': through_crf needs a student with head: crf"
    ):
        StudentSpec.model_validate(spec)


def test_the_penalty_is_half_the_squared_distance_at_words():
    said, steady = torch.randn(2, 13, 3).unbind()
    values = {TOKEN_LOGITS: said.requires_grad_(), STEADY: steady.requires_grad_()}
    given = Seen(Activations(LENGTHS, values), Activations(LENGTHS, {}), None, WORDS)
    objective = DropoutPenalty(kind="dropout_penalty")
    loss = objective.compute(given, PAIR, torch.nn.ModuleDict())
    wanted = sum(
        (said[place] - steady[place]).square().sum() / 2 for place in WORDS.nonzero().flatten()
    )
    assert loss.item() == pytest.approx(wanted.item() / 6, rel=1e-6)
    loss.backward()
    torch.testing.assert_close(said.grad, -steady.grad)
    assert objective.unit(PAIR) == "words"
    assert objective.needs(PAIR) == (frozenset({TOKEN_LOGITS, STEADY}), frozenset())
    rows = Dims(4, 4, 1, classes=("a", "b"), problem="single_label_classification")
    assert objective.unit(Pairing(rows, rows)) == "rows"
    assert objective.needs(Pairing(rows, rows))[0] == {LOGITS, LOGITS._replace(steady=True)}
    bare = Dims(4, 4, 1)
    with pytest.raises(UsageError) as caught:
        objective.needs(Pairing(bare, bare))
    assert str(caught.value) == (
        "objective 'dropout_penalty': the student has no logits: give it a head"
    )


def test_steady_is_without_dropout_while_the_model_is_trained():
    encoder = tagger(None)
    tokens = Tokens.of(tiny_tokenizer().encode(["the cat sleeps", "rain"], 32), 0)
    needs = frozenset({TOKEN_LOGITS, STEADY})
    calm = observe(encoder, tokens, frozenset({TOKEN_LOGITS}), "fp32")[TOKEN_LOGITS]
    encoder.train()
    said = encoder(tokens, needs)
    assert encoder.training
    assert all(module.training for module in encoder.modules())
    torch.testing.assert_close(said[STEADY], calm, rtol=0, atol=1e-6)
    assert (said[TOKEN_LOGITS] - calm).abs().max() > 1e-3
    assert said[STEADY].requires_grad
    rest = encoder.eval()(tokens, needs)
    assert torch.equal(rest[STEADY], rest[TOKEN_LOGITS])


@pytest.mark.parametrize("kind", ["id_cnn", "cnn_lstm"])
def test_a_tagger_trains_with_the_penalty(project, kind):
    def last(weight: float) -> dict[str, float]:
        student = {
            "corpus": "tags-by-words",
            "model": {"kind": kind, "word_width": 8},
            "head": {"kind": "token"},
            "objectives": [{"kind": "labels"}, {"kind": "dropout_penalty", "weight": weight}],
            "train": TRAIN | {"max_steps": 20, "logging_steps": 10},
        }
        write(project, {"s": student})
        run("tokenize", "p.yaml", "tags-by-words")
        run("train", "p.yaml")
        lines = (project / "artifacts/students/s/steps.tsv").read_text().splitlines()
        names, values = (line.split("\t") for line in (lines[0], lines[-1]))
        return dict(zip(names, map(float, values), strict=True))

    free, bound = last(0.0), last(20.0)
    assert 0 < bound["1-dropout_penalty"] < 0.5 * free["1-dropout_penalty"]


def test_pooling_head_is_untouched():
    assert Encoder(tiny_encoder().model, HeadSpec(), []).crf is None
