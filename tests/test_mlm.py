"""Learning from a masked language model: what is kept, what is read back, and the loss of it.

Legend: K kept tokens of the vocabulary.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdpipe import checkpoint, dry_run, fill_blocks, train, validate
from kdpipe.activations import Tokens
from kdpipe.batches import by_length
from kdpipe.encoder import observe
from kdpipe.errors import UsageError
from kdpipe.gold import Gold
from kdpipe.job import prepare
from kdpipe.join import join
from kdpipe.loader import Batch
from kdpipe.losses import top_k_kl
from kdpipe.masked_logits import unpacked
from kdpipe.objectives.base import Unit
from kdpipe.parts import EMBEDDING, MASKED_LOGITS
from kdpipe.pipeline import StudentSpec
from kdpipe.questions import missing
from kdpipe.store import Store
from kdpipe.student import check
from kdpipe.targets import MaskedTokens
from tests.live import TOLERANCE, assert_same, terms_of
from tests.masked import masked_folder
from tests.mlm import (
    CORPUS,
    HEAD,
    V,
    loaded,
    made_project,
)
from tests.pieces import asking, make_cache, make_corpus, new_project, sentences
from tests.reader import read_safetensors

FAMILIES = ["roberta", "distilbert", "electra", "mpnet", "modernbert"]


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill_blocks, "SMALLEST", 20)
    monkeypatch.setattr(fill_blocks, "SPREAD", 100)


def both(root: Path, storage: str, family: str = "bert") -> tuple[Batch, Batch, Any]:
    """The same rows live and cached, and the cache."""
    place = made_project(root, storage, family=family)
    corpus = make_corpus(place)
    cache, _ = make_cache(place, corpus)
    rows = np.random.default_rng(1).permutation(60)[:17]
    found = corpus.gather(rows)
    tokens = Tokens.of(found, 0)
    live = observe(place.teacher("tiny", mlm=True).load(), tokens, cache.provides, "fp32")
    gold = Gold("mlm", ()).of(corpus.labels(rows), found)
    cached = cache.read(rows, cache.provides)
    assert live.values.keys() == cached.values.keys() == cache.provides
    return Batch(tokens, {"said": live}, gold), Batch(tokens, {"said": cached}, gold), cache


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize(
    ("storage", "family"),
    [*((storage, "bert") for storage in TOLERANCE), *(("fp32", family) for family in FAMILIES)],
)
def test_a_cache_is_as_good_as_a_live_teacher(project: Path, storage: str, family: str) -> None:
    live, cached, cache = both(project, storage, family)
    assert cache.dims.masked == MASKED_LOGITS._replace(top_k=16)
    for part in cache.provides - {EMBEDDING}:
        (said, read) = (unpacked(one.teachers["said"][part]) for one in (live, cached))
        assert said[0].shape[1] == part.top_k
        assert len(said[0]) == cached.tokens.vectors(part) > 17
        # Equally likely tokens could change places: that these are not is luck of the seed.
        assert torch.equal(said[1], read[1])
        torch.testing.assert_close(said[2], read[2], rtol=0, atol=1e-5)
        close = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 6e-2, "int8": 1e-1}[storage]
        torch.testing.assert_close(said[0], read[0], rtol=0, atol=close)
    student = loaded(masked_folder(project / "other", seed=5))
    for objective in ({"kind": "mlm"}, {"kind": "mlm", "temperature": 3.0}):
        terms = terms_of(objective, student.dims, {"said": cache.dims})
        assert_same(str(objective), student, terms, live, cached, storage)


@pytest.mark.usefixtures("_small_blocks")
def test_the_loss_is_a_divergence_at_masked_places(project: Path) -> None:
    live, _, cache = both(project, "fp32")
    student = loaded(masked_folder(project / "other", seed=5))
    terms = terms_of({"kind": "mlm"}, student.dims, {"said": cache.dims})
    assert terms.terms[0].objective.unit(terms.terms[0].pair) == "masked"
    said = student.eval()(live.tokens, terms.needs_of_student())
    share = dict.fromkeys(get_args(Unit), 1.0)
    loss, _ = terms(said, live, progress=0.0, share=share)
    mine = said[MASKED_LOGITS].detach().double().softmax(-1).numpy()
    log_p, tokens, _ = unpacked(live.teachers["said"][MASKED_LOGITS._replace(top_k=16)])
    found = []
    for q, logs, kept in zip(mine, log_p.double().numpy(), tokens.tolist(), strict=True):
        p = np.exp(logs)
        found.append(sum(p * (logs - np.log(q[kept]))))
        found[-1] += (1 - p.sum()) * np.log((1 - p.sum()) / (1 - q[kept].sum()))
    assert loss.item() == pytest.approx(np.mean(found), rel=1e-4)


@pytest.mark.usefixtures("_small_blocks")
def test_labels_are_what_was_masked(project: Path) -> None:
    live, _, cache = both(project, "fp32")
    student = loaded(masked_folder(project / "other", seed=5))
    terms = terms_of({"kind": "labels"}, student.dims, {"said": cache.dims})
    assert terms.needs_of_student() == {MASKED_LOGITS}
    said = student.eval()(live.tokens, terms.needs_of_student())
    share = dict.fromkeys(get_args(Unit), 1.0)
    loss, _ = terms(said, live, progress=0.0, share=share)
    assert live.tokens.original is not None
    gold = live.tokens.original[live.tokens.original != -100]
    log_q = said[MASKED_LOGITS].detach().double().log_softmax(-1)
    wanted = -sum(log_q[place, token] for place, token in enumerate(gold.tolist())) / len(gold)
    assert loss.item() == pytest.approx(float(wanted), rel=1e-5)
    assert terms.terms[0].objective.unit(terms.terms[0].pair) == "labels"


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_the_dry_run_knows_the_bytes(project: Path, storage: str) -> None:
    place = made_project(project, storage)
    corpus = make_corpus(place)
    asked = asking(place, corpus)
    blocks = corpus.facts.blocks
    dims = place.teacher("tiny", mlm=True).load().dims
    said = {q.name: dry_run.bytes_of(q, blocks, dims) for q in asked.questions}
    assert len(missing(asked, Store(place.store.root))) == len(blocks)
    make_cache(place, corpus)
    for question in asked.questions:
        files = place.cache_folder("said").glob(f"{question.name}-*.safetensors")
        tensors = [array for file in files for array in read_safetensors(file)[0].values()]
        assert sum(array.nbytes for array in tensors) == said[question.name]
    per_token = {"fp16": 16 * (2 + 4) + 4, "int8": 16 * (1 + 4) + 4 + 4}[storage]
    # With the digest of each row and how many vectors it has.
    size = corpus.facts.masked * per_token + 20 * corpus.facts.rows
    assert said[f"masked_logits.16.{storage}"] == size


def test_a_question_without_top_k_has_the_key_it_always_had() -> None:
    wide = MaskedTokens(kind="mlm").questions()[0]
    assert wide.identity()["top_k"] == 32
    assert (wide.name, str(wide.what)) == (
        "masked_logits.32.fp16",
        "masked logits (the 32 largest)",
    )
    plain = wide.model_copy(update={"top_k": None, "part": "embedding"})
    assert plain.identity() == {"part": "embedding", "layer": None, "storage": "fp16"}


@pytest.mark.usefixtures("_small_blocks")
def test_what_cannot_be_learned_is_refused(project: Path) -> None:
    _, _, cache = both(project, "fp32")
    guesses = loaded(project / "teacher").dims
    small, plain = replace(guesses, vocabulary=V - 1), replace(guesses, problem=None)
    without = replace(cache.dims, masked=None)

    def refusal(objective: dict[str, Any], student: Any, teacher: Any) -> str:
        with pytest.raises(UsageError) as caught:
            terms_of(objective, student, {"said": teacher})
        return str(caught.value)

    mlm = {"kind": "mlm"}
    assert refusal(mlm, plain, cache.dims) == (
        "objective 'mlm': the student guesses no tokens: give it head: {kind: mlm}"
    )
    assert refusal(mlm, guesses, without) == (
        "objective 'mlm': its cache has no guesses of tokens: add a target of kind: mlm and run"
        " 'kdpipe cache-teacher'"
    )
    assert refusal(mlm, small, cache.dims) == (
        f"objective 'mlm': the student has {V - 1} tokens, the teacher {V}: give the student"
        f" vocab_size: {V}"
    )
    assert refusal({"kind": "logits"}, guesses, cache.dims) == (
        "objective 'logits': the student guesses tokens: use kind: mlm"
    )
    assert "pseudo_labels are classes, the student's head is mlm" in refusal(
        {"kind": "labels", "pseudo_labels": True}, guesses, cache.dims
    )


def test_a_student_that_guesses_needs_masked_text(project: Path) -> None:
    corpus = make_corpus(new_project(project, sentences(9)))
    keys = {"caches": ["said"], "model": {"kind": "shape"}, "head": HEAD}
    spec = StudentSpec.model_validate(keys | {"objectives": [{"kind": "labels"}]})
    with pytest.raises(UsageError) as caught:
        check(spec, loaded(masked_folder(project / "other")), corpus.facts, labelled=False)
    assert str(caught.value) == (
        "a head of kind mlm guesses masked tokens, the corpus has none: set its 'mlm_probability',"
        " such as 0.15, and run 'kdpipe tokenize'"
    )


def student_project(root: Path) -> Any:
    """A project with a student that learns from a cache and from what was masked."""
    objectives = [{"kind": "mlm"}, {"kind": "labels"}]
    train = {"max_steps": 4, "tokens_per_batch": 256, "eval_steps": 2, "bf16": False}
    train |= {"gradient_accumulation_steps": 2}
    student = {
        "caches": ["said"],
        "model": {"kind": "teacher_layers", "layers": [1]},
        "head": HEAD,
        "objectives": objectives,
        "train": train,
        "evaluate": [{"kind": "masked_language"}],
    }
    return made_project(root, students={"small": student})


def test_a_run_goes_on_from_a_checkpoint(project: Path) -> None:
    place = student_project(project)
    corpus = make_corpus(place)
    cache, _ = make_cache(place, corpus)
    whole, stopped, resumed = (
        prepare(place, "small", corpus, {"said": cache}, "cpu").run for _ in range(3)
    )
    losses = [step.loss for step in train.fit(whole)]
    first = list(itertools.islice(train.fit(stopped), 2))
    checkpoint.save(project / "run", stopped, {})
    checkpoint.resume(project / "run", resumed)
    words = resumed.student.base.get_input_embeddings().weight
    assert resumed.student.model.get_output_embeddings().weight is words
    assert [step.loss for step in [*first, *train.fit(resumed)]] == losses
    mine, theirs = resumed.student.state_dict(), whole.student.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_batches_weigh_as_much_as_they_have_masked_tokens(project: Path) -> None:
    place = student_project(project)
    corpus = make_corpus(place)
    cache, _ = make_cache(place, corpus)
    run = prepare(place, "small", corpus, {"said": cache}, "cpu").run
    rows = np.flatnonzero(corpus.held_out)
    tokens = Tokens.of(corpus.gather(rows), 0)
    assert tokens.original is not None
    said = observe(run.student, tokens, frozenset({MASKED_LOGITS}), "fp32")[MASKED_LOGITS]
    labels = functional.cross_entropy(said, tokens.original[tokens.masked])
    part = MASKED_LOGITS._replace(top_k=16)
    log_p, indices, normalizer = unpacked(cache.read(rows, frozenset({part}))[part])
    divergence = top_k_kl(said, log_p + normalizer[:, None], indices, normalizer)
    # Held-out rows are measured in several batches.
    assert len(by_length(corpus.lengths[rows], run.spec.tokens_per_batch)) > 1
    assert validate.measure(run)["eval_loss"] == pytest.approx(float(labels + divergence), rel=1e-5)


def test_another_tokenizer_than_the_teachers_is_refused(project: Path) -> None:
    place = made_project(project)
    corpus = make_corpus(place)
    cache, _ = make_cache(place, corpus)
    other = {"mine": {"sources": CORPUS["sources"], "tokenizer": {"kind": "words"}}}
    mine = make_corpus(new_project(project, sentences(60), corpora=other), "mine")
    with pytest.raises(UsageError) as caught:
        join(mine, cache, frozenset({MASKED_LOGITS._replace(top_k=16)}))
    assert str(caught.value) == (
        f"{mine.folder} and {corpus.folder} are read by different tokenizers, which have no masked"
        " logits (the 16 largest) in common: use objectives on embeddings or logits, or the"
        " teacher's tokenizer"
    )
