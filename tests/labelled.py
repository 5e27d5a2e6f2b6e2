"""Models with a head, what they say of each text alone, and files with labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from kdpipe.activations import Tokens
from kdpipe.errors import ArtifactError
from kdpipe.load import load_encoder
from kdpipe.modules import head_of
from kdpipe.tasks import Task
from kdpipe.tasks.subject import HeldOut, Subject
from tests.tiny import SENTENCES, tiny_tokenizer

CLASSES = ("sun", "rain", "snow")
TAGS = ("B-ANIMAL", "I-ANIMAL", "O", "B-PLACE")
TEXTS = SENTENCES[:40]
PAIRS = [*zip(SENTENCES[:20], SENTENCES[20:40], strict=True)]
NOTHING = HeldOut(Tokens(torch.empty(0), torch.empty(0)), None)


def task(**keys: Any) -> Any:
    return TypeAdapter(Task).validate_python(keys)


def subject(folder: Path, *, limit: int = 64, prompt: str = "") -> Subject:
    encoder = load_encoder(folder, head_of(folder))
    return Subject("tiny", encoder, tiny_tokenizer(), limit, prompt, "fp32")


def ids_of(text: Any) -> tuple[Tensor, Tensor]:
    row = tiny_tokenizer().backend.encode(*text if isinstance(text, tuple) else [text])
    return torch.tensor([row.ids]), torch.tensor([row.type_ids])


def by_hand(folder: Path, texts: Any) -> np.ndarray:
    """[R, C]: the logits of transformers for each text, or pair, alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    said = []
    with torch.inference_mode():
        for text in texts:
            ids, types = ids_of(text)
            said.append(model(input_ids=ids, token_type_ids=types).logits[0].numpy())
    return np.stack(said)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [[*rows[0]], *([str(value) for value in row.values()] for row in rows)]
        path.write_text("".join("\t".join(line) + "\n" for line in lines))
    return path


def refused(one: Any, who: Subject, root: Path, rows: HeldOut = NOTHING) -> str:
    with pytest.raises(ArtifactError) as caught:
        one.score(who, rows, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)
