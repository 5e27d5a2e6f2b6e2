"""What tests of masked language models share: masked rows, models, a project.

Legend: N tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM

from kdpipe.activations import Tokens
from kdpipe.corpus import text_digest
from kdpipe.encoder import Encoder
from kdpipe.load import load_encoder
from kdpipe.masking import Masking
from kdpipe.modules import head_of
from kdpipe.tasks.subject import Subject
from kdpipe.tokenizer import Encoded
from tests.masked import masked_folder
from tests.pieces import new_project, sentences
from tests.tiny import SENTENCES, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
V = TOKENIZER.vocabulary
MASK = TOKENIZER.backend.token_to_id("[MASK]")
SPECIAL = [TOKENIZER.backend.token_to_id(token) for token in TOKENIZER.special.values()]
TEXTS = [SENTENCES[0], "", *SENTENCES[3:9], "the cat " * 12]
CORPUS: dict[str, Any] = {
    "sources": [{"kind": "files", "files": ["text.txt"]}],
    "tokenizer": "tiny",
    "max_seq_length": 32,
    "validation": 0.2,
    "mlm_probability": 0.25,
}
HEAD = {"kind": "mlm"}


def digests(texts: list[str]) -> list[bytes]:
    return [text_digest(text) for text in texts]


def masked(
    texts: list[str], probability: float = 0.3, seed: int = 0, prompt_tokens: int = 0
) -> tuple[Encoded, Encoded]:
    """Rows before and after."""
    rows = TOKENIZER.encode(texts, 32)
    made = Masking(probability, seed, TOKENIZER, prompt_tokens).of(rows, digests(texts))
    return rows, made


def tokens_of(texts: list[str] = TEXTS) -> Tokens:
    return Tokens.of(masked(texts)[1], 0)


def split(rows: Encoded) -> list[tuple[list[int], list[int]]]:
    """Ids and originals of each row."""
    assert rows.original is not None
    borders = np.cumsum(rows.lengths)[:-1]
    pairs = zip(np.split(rows.ids, borders), np.split(rows.original, borders), strict=True)
    return [(ids.tolist(), original.tolist()) for ids, original in pairs]


def loaded(folder: Path) -> Encoder:
    return load_encoder(folder, head_of(folder), mlm=True)


def by_transformers(folder: Path, tokens: Tokens) -> Tensor:
    """[N, V]: what the model of transformers says by itself."""
    model = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True).eval()
    mask = tokens.mask()
    with torch.inference_mode():
        said = model(input_ids=tokens.padded(0), attention_mask=mask.long())
    logits: Tensor = said.logits
    return logits[mask]


def made_project(
    root: Path, storage: str = "fp32", top_k: int = 16, family: str = "bert", **sections: Any
) -> Any:
    """A project with a masked corpus, and a cache with both forms of the target."""
    masked_folder(root / "teacher", family)
    targets: list[dict[str, Any]] = [{"kind": "embedding"}]
    targets += [{"kind": "mlm", "top_k": top_k}, {"kind": "mlm", "top_k": 5, "where": "all"}]
    cache = {
        "corpus": "text",
        "teacher": "tiny",
        "dtype": "fp32",
        "targets": [{**target, "storage": storage} for target in targets],
    }
    return new_project(
        root, sentences(60), corpora={"text": CORPUS}, caches={"said": cache}, **sections
    )


def subject(encoder: Encoder, **keys: Any) -> Subject:
    return Subject("small", encoder, tiny_tokenizer(), 32, "", "fp32", **keys)
