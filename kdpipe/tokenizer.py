"""The tokenizer that really runs: one backend, without truncation and padding of its own.

Some `tokenizer.json` files truncate and pad by themselves (all-MiniLM's to 128 tokens). Here both
are switched off and the limit is the caller's. The fingerprint covers what the backend does, not
its name.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdpipe import io
from kdpipe.errors import ArtifactError
from kdpipe.hub import read_json

Text = str | tuple[str, str]
_SPECIAL = ("pad", "unk", "cls", "sep", "bos", "eos", "mask")


@dataclass(frozen=True)
class Encoded:
    """Rows of token ids, flat."""

    ids: npt.NDArray[np.int64]
    """[N]."""
    lengths: npt.NDArray[np.int64]
    """[B]."""
    second_at: npt.NDArray[np.int64] | None
    """[B]: where token type 1 begins, the second text of a pair; None without pairs."""


@dataclass(frozen=True)
class Tokenizer:
    """A fast tokenizer and the facts that models and folders need about it."""

    backend: Any
    """`tokenizers.Tokenizer`, without truncation and padding."""
    special: dict[str, str]
    """`cls_token` -> `[CLS]`, ...: the special tokens that it has."""
    input_names: tuple[str, ...]
    """What its models read: `input_ids`, `attention_mask`, often `token_type_ids`."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of what it does."""
        return io.identity({"backend": json.loads(self.backend.to_str()), "special": self.special})

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def pad_id(self) -> int:
        """Id that fills up rows; 0 where the tokenizer has no padding token."""
        token = self.special.get("pad_token")
        return 0 if token is None else int(self.backend.token_to_id(token))

    def encode(self, texts: Sequence[Text], max_seq_length: int) -> Encoded:
        """Tokens of texts or of pairs, special tokens included, cut to `max_seq_length`."""
        self.backend.enable_truncation(max_seq_length)
        try:
            rows = self.backend.encode_batch_fast(list(texts))
        finally:
            self.backend.no_truncation()
        lengths = np.fromiter((len(row.ids) for row in rows), np.int64, len(rows))
        ids = np.concatenate(
            [np.asarray(row.ids, np.int64) for row in rows] or [np.empty(0, np.int64)]
        )
        if all(isinstance(text, str) for text in texts):
            return Encoded(ids, lengths, None)
        # A family that gives both texts of a pair the same type has none of type 1.
        firsts = (
            types.index(1) if 1 in types else len(types) for types in (r.type_ids for r in rows)
        )
        return Encoded(ids, lengths, np.fromiter(firsts, np.int64, len(rows)))

    def count(self, prompt: str) -> int:
        """Tokens that a prompt takes at the head of a row, leading special tokens included."""
        if not prompt.strip():
            return 0
        row = self.backend.encode(prompt)
        trailing = row.special_tokens_mask[::-1].index(0)
        return len(row.ids) - int(trailing)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder; raises ArtifactError where it has no fast one."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Steps
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(
            folder, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(f"{folder}: its tokenizer cannot be loaded ({reason})") from None
    if not getattr(loaded, "is_fast", False):
        raise ArtifactError(
            f"{folder}: its tokenizer has no tokenizer.json form, which kdpipe needs"
        )
    if not any((folder / name).is_file() for name in loaded.vocab_files_names.values()):
        raise ArtifactError(f"{folder} has no tokenizer.json: it is not a whole model folder")
    # Read back once: then its numbers are to the last bit those that readers of the file get.
    backend = Backend.from_str(loaded.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    if read_json(folder / "sentence_bert_config.json").get("do_lower_case"):
        steps = [Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
        backend.normalizer = Steps(steps)
    named = {f"{name}_token": getattr(loaded, f"{name}_token", None) for name in _SPECIAL}
    special = {name: str(token) for name, token in named.items() if token is not None}
    return Tokenizer(backend, special, tuple(loaded.model_input_names))
