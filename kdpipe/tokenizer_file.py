"""A `tokenizer.json` is tried out before a library loads it, which nothing can interrupt.

To load it means to apply its normalizer to every token that is added to its vocabulary, and that
holds the whole process up: a few hostile rules make gigabytes of a short token. So the normalizer
alone reads all these tokens first, within limits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdpipe import records, supervised
from kdpipe.errors import ArtifactError
from kdpipe.hub import read_json

_MOST = 128 << 20
"""Bytes of the file; the largest of known encoders has 40 MB."""
_MOST_PIECES = 16 << 20
"""Characters of all pieces of a Unigram model, each of which takes 340 bytes of memory; a million
pieces, as XLM-V has them, have 8 million."""
_SHARE = 0.1
"""Of the usual limits: the tokens are read several times as they are loaded."""
_NAMES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_USUAL = ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>")
"""Tokens that libraries add by themselves."""


def try_out(folder: Path) -> None:
    """Refuse a tokenizer that cannot be loaded in bounded time and memory.

    Raises:
        ArtifactError: it is too large, no JSON, or its normalizer passes a limit.
    """
    from tokenizers import Tokenizer as Backend

    path = folder / "tokenizer.json"
    try:
        record = json.loads(records.read_regular(path, _MOST))
    except FileNotFoundError:
        return
    except (ValueError, RecursionError) as error:
        reason = f"{path.name} is not valid JSON: {error}"
        raise ArtifactError(f"{folder}: its tokenizer cannot be loaded ({reason})") from None
    if not isinstance(record, dict):
        return
    _measure_pieces(path, record)
    if not record.get("normalizer"):
        return
    words = [*_strings(record.get("added_tokens")), *_USUAL]
    for name in _NAMES:
        words += _strings(read_json(folder / name))
    # Halves of surrogate pairs, which JSON may have, are no text.
    words = [word.encode("utf-8", "replace").decode("utf-8") for word in words]
    alone = {
        "version": "1.0",
        "normalizer": record["normalizer"],
        "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"},
    }
    try:
        backend = Backend.from_str(json.dumps(alone))
    except Exception:  # noqa: BLE001 - what is wrong is said by the library that loads the whole
        return
    who, remedy = f"{path}: its normalizer", "use another model"
    with supervised.reading(who, words, share=_SHARE, remedy=remedy):
        backend.encode_batch_fast(words)


def _measure_pieces(path: Path, record: dict[str, Any]) -> None:
    model = record.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    pieces = sum(map(len, _strings(vocabulary))) if isinstance(vocabulary, list) else 0
    if pieces > _MOST_PIECES:
        raise ArtifactError(
            f"{path}: its vocabulary has {pieces:,} characters, more than {_MOST_PIECES:,}: use"
            " another model"
        )


def _strings(value: Any) -> list[str]:
    """All strings in JSON, keys too."""
    found, left = list[str](), [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, dict | list):
            left += [*one, *one.values()] if isinstance(one, dict) else one
    return found
