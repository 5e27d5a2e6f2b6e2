"""Tokenizers that run for ever or fill the memory, as changes of a harmless `tokenizer.json`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]


def replaces(letter: str) -> Json:
    """A chain of which each step makes eight letters of one."""
    step = {"type": "Replace", "pattern": {"String": letter}, "content": letter * 8}
    return {"type": "Sequence", "normalizers": [step] * 7}


def split(pattern: str) -> Json:
    """A regular expression that cuts a text."""
    kind = {"type": "Split", "behavior": "Isolated", "invert": False}
    return kind | {"pattern": {"Regex": pattern}}


def template(ids: int, texts: int = 1) -> Json:
    """So many tokens before every text, which stands there so many times."""
    text = {"Sequence": {"id": "A", "type_id": 0}}
    single = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, *[text] * texts]
    token = {"id": "[CLS]", "ids": [2] * ids, "tokens": ["[CLS]"] * ids}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {"[CLS]": token}
    return {"type": "TemplateProcessing", "single": single, "pair": pair} | {
        "special_tokens": special
    }


def added(token: str) -> Json:
    """A token that the normalizer reads as the file is loaded."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    return {"id": 900, "content": token, "normalized": True} | flags


def far_words(record: Json) -> Json:
    """Ids of words far behind those that the model knows."""
    model = record["model"]
    ids = {word: one + (1000 if word.isalpha() else 0) for word, one in model["vocab"].items()}
    return record | {"model": model | {"vocab": ids}}


def far_token(record: Json) -> Json:
    """A token before each text that is in no vocabulary."""
    made = template(1)
    made["special_tokens"]["[CLS]"]["ids"] = [70_000]
    return record | {"post_processor": made}


def without_unknown(record: Json) -> Json:
    """Words that are not known have no token."""
    return record | {"model": {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "?"}}


def long_words(record: Json) -> Json:
    """Each piece of a word is looked for among all its beginnings."""
    model = record["model"] | {"max_input_chars_per_word": 10**9}
    model["vocab"] = model["vocab"] | {"##a": len(model["vocab"])}
    return record | {"model": model}


EXPLODING: dict[str, Callable[[Json], Json]] = {
    "replaces": lambda record: record | {"normalizer": replaces("=")},
    "prepend": lambda record: (
        record | {"normalizer": {"type": "Prepend", "prepend": "x" * 2_000_000}}
    ),
    "added token": lambda record: (
        record
        | {
            "normalizer": replaces("~"),
            "added_tokens": [*record["added_tokens"], added("~" * 20)],
        }
    ),
    "quadratic": lambda record: record | {"pre_tokenizer": split("a+[bc]d?")},
    "just below the limit": lambda record: record | {"pre_tokenizer": split("a+a+[bc]")},
    "gives up": lambda record: record | {"pre_tokenizer": split("(a+)+$")},
    "template": lambda record: record | {"post_processor": template(100_000)},
    "text in a template": lambda record: record | {"post_processor": template(1, 50)},
    "long words": long_words,
    "no unknown token": without_unknown,
    "far words": far_words,
    "far token": far_token,
}


def exploding(dice: random.Random, record: Json) -> Json:
    """One of them, or two at once."""
    for change in dice.sample([*EXPLODING.values()], dice.choice([1, 1, 2])):
        record = change(record)
    return record
