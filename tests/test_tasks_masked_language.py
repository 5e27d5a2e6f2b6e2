"""Task `masked_language`: guesses of masked tokens against what they were, and the teacher's."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from kdpipe.activations import Tokens
from kdpipe.errors import ArtifactError, NonFiniteError
from kdpipe.load import load_encoder
from kdpipe.modules import head_of
from kdpipe.report import Report
from kdpipe.subjects import held_out
from kdpipe.tasks import MaskedLanguage
from kdpipe.tasks.subject import HeldOut
from tests.masked import masked_folder
from tests.mlm import (
    CORPUS,
    TEXTS,
    TOKENIZER,
    by_transformers,
    loaded,
    subject,
    tokens_of,
)
from tests.pieces import make_cache, make_corpus, new_project, sentences

TASK = MaskedLanguage(kind="masked_language")


@pytest.mark.parametrize("where", ["masked", "all"])
def test_perplexity_and_agreement(project: Path, where: str) -> None:
    target = {"kind": "mlm", "top_k": 3, "where": where}
    cache_spec = {"corpus": "text", "teacher": "tiny", "dtype": "fp32", "targets": [target]}
    masked_folder(project / "teacher")
    place = new_project(
        project, sentences(60), corpora={"text": CORPUS}, caches={"said": cache_spec}
    )
    corpus = make_corpus(place)
    cache, _ = make_cache(place, corpus)
    rows = held_out(corpus, cache)
    count = int(corpus.held_out.sum())
    assert len(rows.tokens) == count > 5
    teacher, other = loaded(project / "teacher"), loaded(masked_folder(project / "b", seed=5))
    guessed = {}
    for name, encoder in (("teacher", teacher), ("other", other)):
        logits = by_transformers(project / ("teacher" if name == "teacher" else "b"), rows.tokens)
        assert rows.tokens.original is not None
        places = [n for n, token in enumerate(rows.tokens.original.tolist()) if token != -100]
        gold = rows.tokens.original[places]
        guessed[name] = logits[places].argmax(-1)
        wanted = math.exp(functional.cross_entropy(logits[places].double(), gold))
        scores = TASK.score(subject(encoder), rows, Path())
        assert {*scores} == {"perplexity", "accuracy", "agreement"}
        assert scores["perplexity"] == pytest.approx(wanted, rel=1e-4)
        assert scores["accuracy"] == pytest.approx(float((guessed[name] == gold).double().mean()))
        same = float((guessed[name] == guessed["teacher"]).double().mean())
        assert scores["agreement"] == pytest.approx(same)
    assert TASK.score(subject(teacher), rows, Path())["agreement"] == 1.0
    # Fewer rows keep their own tokens and guesses.
    few = rows.spread(3)
    assert TASK.score(subject(teacher), few, Path())["agreement"] == 1.0
    assert TASK.score(subject(teacher, alike=False), rows, Path()) == {}
    plain = load_encoder(project / "teacher", head_of(project / "teacher"))
    assert TASK.score(subject(plain), rows, Path()) == {}


def test_text_without_masks_cannot_be_guessed(tmp_path: Path) -> None:
    rows = HeldOut(Tokens.of(TOKENIZER.encode(TEXTS, 32), 0), None)
    with pytest.raises(ArtifactError) as caught:
        TASK.score(subject(loaded(masked_folder(tmp_path))), rows, Path())
    assert str(caught.value) == (
        "masked_language needs masked tokens in held-out rows: set 'mlm_probability' of the corpus,"
        " or raise its 'validation'"
    )


def test_a_broken_model_is_told_of(tmp_path: Path) -> None:
    broken = loaded(masked_folder(tmp_path))
    torch.nn.init.constant_(broken.model.cls.predictions.transform.dense.bias, math.nan)
    with pytest.raises(NonFiniteError, match=r"^small gives NaN or Inf for \d+ masked tokens: "):
        TASK.score(subject(broken), HeldOut(tokens_of(), None), Path())


def test_of_perplexity_less_is_better() -> None:
    quality = {
        "teacher": {"perplexity": 8.0, "accuracy": 0.5},
        "untrained": {"perplexity": 4000.0, "accuracy": 0.0},
        "student": {"perplexity": 16.0, "accuracy": 0.25},
    }
    report = Report({role: role for role in quality}, quality, {}, ("perplexity",))
    assert report.share("student") == {"perplexity": 0.5, "accuracy": 0.5}
    assert report.share("teacher") == {"perplexity": 1.0, "accuracy": 1.0}
    assert report.rising("student") == {"1 / perplexity": 0.0625, "accuracy": 0.25}
    assert report.rising_main == "1 / perplexity"
