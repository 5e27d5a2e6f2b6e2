"""Passes that do not fit into memory are made smaller, block by block, and that is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdpipe import passes, teacher
from kdpipe.encoder import Encoder
from kdpipe.errors import ResourceError, explain, out_of_memory
from kdpipe.parts import EMBEDDING
from kdpipe.project import Project
from kdpipe.questions import Asking, missing
from tests.pieces import asking, make_corpus, new_project, sentences

pytestmark = pytest.mark.usefixtures("small_blocks")


def with_memory_for(place: Project, tokens: int) -> Encoder:
    """The teacher on a device that holds so many padded tokens at a time."""
    encoder = place.teacher("tiny").load()

    def refuse(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError(f"no room for {kwargs['input_ids'].shape}")

    encoder.model.register_forward_pre_hook(refuse, with_kwargs=True)
    return encoder


@pytest.fixture
def here(project: Path) -> tuple[Project, Asking]:
    """A corpus of several blocks, and what is asked about it in passes of 256 tokens."""
    caches = {
        "said": {
            "corpus": "text",
            "teacher": "tiny",
            "dtype": "fp32",
            "tokens_per_batch": 256,
            "targets": [{"kind": "embedding", "storage": "fp32"}],
        }
    }
    place = new_project(project, sentences(60), caches=caches)
    return place, asking(place, make_corpus(place))


def test_a_block_that_does_not_fit_is_read_again_in_halves(
    here: tuple[Project, Asking], capsys: pytest.CaptureFixture[str]
) -> None:
    place, questions = here
    todo = missing(questions, place.store)
    assert len(todo) > 2
    exact = [*passes.read_blocks(questions, todo, place.teacher("tiny").load())]
    encoder = with_memory_for(place, 70)
    assert "out of memory" not in capsys.readouterr().err
    found = [*passes.read_blocks(questions, todo, encoder)]
    used = [tokens for _, _, tokens in found]
    assert {*used} == {64}
    for (item, mine, _), (other, theirs, tokens) in zip(found, exact, strict=True):
        assert (item.index, tokens) == (other.index, 256)
        assert torch.allclose(mine[EMBEDDING], theirs[EMBEDDING], atol=1e-6)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == (
        f"out of memory with 256 tokens in a pass: block {todo[0].index} is read again with 128"
    )
    assert f"128 tokens in a pass: block {todo[0].index} is read again with 64" in told[1]
    # Blocks that had begun are redone on their own, later ones begin with what fits.
    assert len(told) <= 4


def test_receipts_tell_how_large_the_passes_were(here: tuple[Project, Asking]) -> None:
    place, questions = here
    todo = missing(questions, place.store)
    teacher.answer(questions, todo, place.store, lambda: with_memory_for(place, 70))
    for item in todo:
        receipt = place.store.find(place.store.key(questions.full(item.block, item.questions[0])))
        assert receipt is not None
        assert receipt.made_by["tokens_per_batch"] == 64


def test_single_rows_that_do_not_fit_are_the_end(here: tuple[Project, Asking]) -> None:
    place, questions = here
    todo = missing(questions, place.store)
    with pytest.raises(ResourceError) as caught:
        [*passes.read_blocks(questions, todo, with_memory_for(place, 1))]
    assert str(caught.value).startswith(
        f"out of memory with single rows of block {todo[0].index} (up to "
    )
    assert "lower max_seq_length" in str(caught.value)
    assert caught.value.exit_code == 6


def test_other_errors_of_a_pass_are_not_tried_again(here: tuple[Project, Asking]) -> None:
    place, questions = here
    encoder, todo = place.teacher("tiny").load(), missing(questions, place.store)
    calls = []

    def fail(module: torch.nn.Module, args: Any) -> None:
        calls.append(1)
        raise RuntimeError("a shape is wrong")

    encoder.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        [*passes.read_blocks(questions, todo[:1], encoder)]
    blocks = len(passes.plan_block(questions, todo[0], torch.device("cpu"))[1])
    assert len(calls) <= blocks


def test_what_torch_says_when_memory_is_out() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert out_of_memory(caught.value)
    assert isinstance(explain(caught.value), ResourceError)
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("a shape is wrong"))
