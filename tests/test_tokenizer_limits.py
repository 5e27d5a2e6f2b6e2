"""What a tokenizer adds to a row, and which ids it has: no more than is asked for and known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from kdpipe.errors import ArtifactError, UsageError
from kdpipe.tokenizer import Tokenizer, load_tokenizer
from tests.tiny import tiny_teacher_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny teacher's."""
    return tiny_teacher_folder(tmp_path / "teacher")


def test_special_tokens_leave_room(folder: Path) -> None:
    made = load_tokenizer(folder)
    assert made.encode(["cat", "dog"], 2).lengths.tolist() == [2, 2]
    for texts, limit, added in ((["cat"], 1, 2), (["cat", ("cat", "dog")], 2, 3)):
        with pytest.raises(UsageError, match=f"max_seq_length is {limit}, and .* adds {added} spe"):
            made.encode(texts, limit)


def test_a_text_that_a_template_has_several_times_makes_no_longer_row(folder: Path) -> None:
    made = load_tokenizer(folder)
    backend = Backend.from_str(made.backend.to_str())
    backend.post_processor = TemplateProcessing(single="$A $A $A")
    with pytest.raises(ArtifactError, match="makes rows of 6 tokens, where 4 are asked for"):
        Tokenizer(backend, {}, ()).encode(["a cat"], 4)


def test_ids_that_no_token_has_are_counted(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "teacher")
    before = load_tokenizer(folder).vocabulary
    path = folder / "tokenizer.json"
    record = json.loads(path.read_bytes())
    word = max(record["model"]["vocab"], key=record["model"]["vocab"].get)
    record["model"]["vocab"][word] += 70_000
    path.write_text(json.dumps(record))
    assert load_tokenizer(folder).vocabulary == before + 70_000
