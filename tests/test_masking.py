"""What is masked: by which rule, in which rows, and how a corpus keeps it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdpipe import fill_blocks
from kdpipe.activations import Tokens
from kdpipe.errors import ArtifactError
from kdpipe.masking import UNMASKED, Masking
from kdpipe.parts import EMBEDDING, MASKED_LOGITS, TOKEN_LOGITS
from kdpipe.pipeline import CorpusSpec
from kdpipe.tokenizer import Tokenizer
from tests.mlm import (
    CORPUS,
    MASK,
    SPECIAL,
    TEXTS,
    TOKENIZER,
    V,
    made_project,
    masked,
    split,
    tokens_of,
)
from tests.pieces import make_corpus, new_project, sentences
from tests.reader import read_blocks, tokens_digest
from tests.tiny import SENTENCES


def test_what_is_masked_can_be_put_back() -> None:
    before, after = masked(TEXTS)
    assert after.original is not None
    hidden = after.original != UNMASKED
    assert np.array_equal(np.where(hidden, after.original, after.ids), before.ids)
    assert np.array_equal(after.ids[~hidden], before.ids[~hidden])
    assert not np.isin(before.ids[hidden], SPECIAL).any()
    counts = [sum(one != UNMASKED for one in original) for _, original in split(after)]
    # The second text is empty: there is nothing to mask.
    assert [count > 0 for count in counts] == [text != "" for text in TEXTS]


def test_a_row_is_masked_the_same_wherever_it_stands() -> None:
    alone = [split(masked([text])[1])[0] for text in TEXTS]
    assert split(masked(TEXTS)[1]) == alone
    assert split(masked(TEXTS[::-1])[1]) == alone[::-1]
    assert split(masked(TEXTS, seed=1)[1]) != alone


def test_at_least_one_token_of_a_row_is_masked() -> None:
    _, made = masked(SENTENCES, probability=1e-9)
    assert [sum(one != UNMASKED for one in original) for _, original in split(made)] == [1] * 60


def test_shares_are_those_of_bert() -> None:
    texts = [f"{'the cat and the dog ' * 6}{number}" for number in range(2000)]
    before, made = masked(texts, probability=0.15)
    assert made.original is not None
    hidden = made.original != UNMASKED
    usual = ~np.isin(before.ids, SPECIAL)
    assert hidden.sum() / usual.sum() == pytest.approx(0.15, abs=0.005)
    now, was = made.ids[hidden], made.original[hidden]
    assert (now == MASK).mean() == pytest.approx(0.8, abs=0.01)
    others = now[(now != MASK) & (now != was)]
    assert len(others) / len(now) == pytest.approx(0.1, abs=0.01)
    assert not np.isin(others, SPECIAL).any()
    # Any other token may stand there: nearly all do among some thousand.
    assert len({*others.tolist()}) > 0.9 * (V - len(SPECIAL))


def test_a_prompt_is_not_masked() -> None:
    texts = [f"query: {text}" for text in SENTENCES[:20]]
    count = TOKENIZER.count("query: ")
    assert count > 2
    _, made = masked(texts, probability=0.99, prompt_tokens=count)
    for _, original in split(made):
        assert original[:count] == [UNMASKED] * count
        assert original[count] != UNMASKED or original[count + 1] != UNMASKED


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    special = {key: token for key, token in TOKENIZER.special.items() if key != "mask_token"}
    bare = Tokenizer(TOKENIZER.backend, special, TOKENIZER.input_names)
    with pytest.raises(ArtifactError) as caught:
        Masking(0.15, 0, bare, 0)
    assert str(caught.value) == (
        "mlm_probability needs a tokenizer with a mask token, this one has none: use that of a"
        " masked language model such as BERT"
    )


def test_tokens_know_which_of_them_are_masked() -> None:
    tokens = tokens_of()
    rows = torch.tensor([8, 0, 1, 3])
    assert tokens.original is not None
    taken = tokens.take(rows)
    assert taken.original is not None
    per_row = tokens.masked.split(tokens.lengths.tolist())
    assert torch.equal(taken.masked, torch.cat([per_row[row] for row in rows]))
    # Numbers of masked tokens: those of row 3 come after those of rows 0 to 2.
    counts = [int(one.sum()) for one in per_row]
    wanted = [list(range(sum(counts[:row]), sum(counts[: row + 1]))) for row in rows]
    found = tokens.vectors_of(rows, MASKED_LOGITS).tolist()
    assert found == [number for numbers in wanted for number in numbers]
    assert tokens.vectors(MASKED_LOGITS) == sum(counts)
    assert tokens.vectors(TOKEN_LOGITS) == len(tokens.ids)
    assert tokens.vectors(EMBEDDING) == len(TEXTS)
    plain = Tokens.of(TOKENIZER.encode(TEXTS, 32), 0)
    assert (plain.vectors(MASKED_LOGITS), plain.take(rows).original) == (0, None)


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill_blocks, "SMALLEST", 20)
    monkeypatch.setattr(fill_blocks, "SPREAD", 100)


@pytest.mark.usefixtures("_small_blocks")
def test_a_corpus_keeps_what_was_masked(project: Path) -> None:
    place = made_project(project)
    corpus = make_corpus(place)
    blocks = read_blocks(place.corpus_folder("text"))
    assert len(blocks) > 3
    plain = TOKENIZER.encode(sentences(60), 32)
    ids = np.concatenate([block["input_ids"].combine_chunks().values for block in blocks])
    original = np.concatenate([block["original"].combine_chunks().values for block in blocks])
    assert np.array_equal(np.where(original == -100, ids, original), plain.ids)
    for facts, block in zip(corpus.facts.blocks, blocks, strict=True):
        here = [
            block[name].combine_chunks().values.to_pylist() for name in ("input_ids", "original")
        ]
        lengths = block["length"].to_pylist()
        assert facts.tokens_digest == tokens_digest(here[0], lengths, [], here[1])
        assert facts.masked == sum(one != -100 for one in here[1]) > 0
    assert corpus.facts.masked == (original != -100).sum() == corpus.masked.sum()
    rows = np.random.default_rng(0).permutation(60)
    found = corpus.gather(rows)
    starts = np.concatenate([[0], np.cumsum(plain.lengths)])
    wanted = [original[starts[row] : starts[row + 1]] for row in rows]
    assert found.original is not None
    assert np.array_equal(found.original, np.concatenate(wanted))
    first = corpus.all_of(0)
    assert first.original is not None
    assert np.array_equal(first.original, original[: len(first.ids)])


@pytest.mark.usefixtures("_small_blocks")
def test_new_rows_leave_others_masked_as_they_were(project: Path) -> None:
    place = made_project(project)
    before = {block.tokens_digest for block in make_corpus(place).facts.blocks}
    text = project / "text.txt"
    text.write_text("A new first line.\n" + text.read_text())
    after = [block.tokens_digest for block in make_corpus(place).facts.blocks]
    assert len({*after} - before) < len(after) / 2


def test_without_the_key_nothing_is_masked(project: Path) -> None:
    corpus = make_corpus(new_project(project, sentences(9)))
    assert (corpus.facts.masked, corpus.gather(np.arange(3)).original) == (0, None)
    assert corpus.masked.tolist() == [0] * 9
    assert "original" not in read_blocks(corpus.folder)[0].column_names
    assert CorpusSpec.model_validate({**CORPUS, "mlm_probability": None}).mlm_probability is None
