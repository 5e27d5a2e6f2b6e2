"""What is told of one thing: lines and a table, and how values of records are written there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Pairs = list[tuple[str, str]]
_WIDE = 100


@dataclass(frozen=True)
class Page:
    """What is told of one thing."""

    facts: Pairs
    columns: Sequence[str] = ()
    """Names; one that ends in a blank has numbers."""
    rows: Sequence[Sequence[str]] = ()


def filled(value: Any) -> Any:
    """The same without keys that have nothing."""
    if isinstance(value, list):
        return [filled(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {key: filled(one) for key, one in value.items()}
    return {key: one for key, one in kept.items() if one not in (None, [], {}, "")}


def compact(value: Any) -> str:
    """One line: `{kind: files, files: [text.txt]}`."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {compact(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(compact, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def cut_short(text: str) -> str:
    """The beginning of a long line."""
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 3]}..."


def measures(values: Any) -> str:
    """What was measured: `eval_loss 0.1234, eval_cosine 0.9876`."""
    pairs = mapping(values).items()
    return (
        ", ".join(f"{name} {value:.4f}" for name, value in pairs if _is_number(value)) or "nothing"
    )


def mapping(value: Any) -> dict[str, Any]:
    """What should be one, and is empty where it is none."""
    return value if isinstance(value, dict) else {}


def numeral(value: Any) -> str:
    """`1,234`, or `?` for what is no number."""
    return f"{value:,}" if _is_number(value) else "?"


def _is_number(value: Any) -> bool:
    # Files can tell whole numbers that no float holds.
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
