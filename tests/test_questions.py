"""A shard's name tells apart everything that its bytes depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdpipe.corpus import Corpus
from kdpipe.device import Dtype
from kdpipe.questions import Asking
from kdpipe.store import Store
from tests.pieces import asking, make_corpus, new_project, sentences


def with_facts(corpus: Corpus, **facts: Any) -> Corpus:
    return replace(corpus, facts=corpus.facts.model_copy(update=facts))


@pytest.fixture
def questions(project: Path, small_blocks: None) -> Asking:
    place = new_project(project, sentences(60))
    return asking(place, make_corpus(place))


def keys(questions: Asking) -> dict[tuple[str, str], str]:
    store = Store(Path("store"))
    return {
        (block.name, question.name): store.key(questions.full(block, question))
        for block in questions.corpus.facts.blocks
        for question in questions.questions
    }


def test_each_block_and_each_question_has_a_name_of_its_own(questions: Asking) -> None:
    names = keys(questions)
    assert len(names) == len(questions.corpus.facts.blocks) * 3
    assert len({*names.values()}) == len(names)


def test_another_teacher_tokenizer_prompt_or_dtype_has_other_names(questions: Asking) -> None:
    corpus, before = questions.corpus, keys(questions)
    dtype: Dtype = "bf16"
    others = [
        replace(questions, teacher="0" * 64),
        replace(questions, dtype=dtype),
        replace(questions, corpus=with_facts(corpus, tokenizer="another")),
        replace(questions, corpus=with_facts(corpus, prompt_tokens=2)),
    ]
    seen = {*before.values()}
    for other in others:
        names = {*keys(other).values()}
        assert len(names) == len(before)
        assert not names & seen
        seen |= names


def test_other_tokens_have_another_name_and_other_rows_before_them_do_not(
    questions: Asking,
) -> None:
    corpus, before = questions.corpus, keys(questions)
    first, *rest = corpus.facts.blocks
    edited = first.model_copy(update={"tokens_digest": "0" * 64})
    moved = [block.model_copy(update={"first_row": block.first_row + 9}) for block in rest]
    after = keys(replace(questions, corpus=with_facts(corpus, blocks=(edited, *moved))))
    for (block, question), key in before.items():
        assert (after[block, question] == key) is (block != first.name)
