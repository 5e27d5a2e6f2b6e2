"""From YAML to frozen models: every mistake is one line with file, line, dotted key and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from kdpipe.errors import UsageError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
"""Names become folder names: lower case letters, digits, '-' and '_'."""


def nearest(word: str, known: list[str]) -> str:
    """A sentence that names what is allowed and, when close enough, what was meant."""
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}allowed: {', '.join(known) or 'nothing'}"


class MisplacedError(ValueError):
    """A mistake at a key below the model that finds it; `keys` lead there, for the line number."""

    def __init__(self, keys: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.keys = keys


class Frozen(BaseModel):
    """Base of everything a pipeline file can say: immutable, no unknown keys, documented fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict) and cls.model_config.get("extra") == "forbid":
            for key in data:
                if key not in cls.model_fields:
                    allowed = nearest(str(key), [*cls.model_fields])
                    raise MisplacedError((key,), f"unknown key {key!r}: {allowed}")
        return data

    def identity(self) -> dict[str, Any]:
        """The JSON form of all fields, defaults included: what enters manifests and digests."""
        return self.model_dump(mode="json")


Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file; raises UsageError with the line of a mistake."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; 'kdpipe init' writes one") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; name the pipeline file in it") from None
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{path}: {len(raw)} bytes; a pipeline file has at most {MAX_BYTES}")
    try:
        data = YAML(typ="safe", pure=True).load(raw.decode("utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UsageError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if data is None:
        raise UsageError(f"{path} is empty: remove it, then 'kdpipe init' writes one")
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected a mapping, found {type(data).__name__}")
    if _depth(data, MAX_DEPTH) > MAX_DEPTH:
        raise UsageError(f"{path}: nested deeper than {MAX_DEPTH} levels")
    return data


def decode(model: type[Model], data: Any, path: Path) -> Model:
    """Validate `data`, read from `path`; raises UsageError naming line, key, value and remedy."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        keys = list(_keys(data, first["loc"]))
        text = first["msg"].removeprefix("Value error, ")
        if first["type"] not in {"value_error", "missing"} and not isinstance(first["input"], dict):
            text = f"{text}, found {first['input']!r}"
        if first["type"] == "missing":
            keys, text = keys[:-1], f"key {first['loc'][-1]!r} is required"
        dotted = ".".join(str(key) for key in keys)
        below = getattr(first.get("ctx", {}).get("error"), "keys", ())
        where = f"{path}:{_line(path, [*keys, *below])}"
        raise UsageError(f"{where}: {dotted}: {text}" if keys else f"{where}: {text}") from None


def _keys(data: Any, location: tuple[int | str, ...]) -> Iterator[int | str]:
    """The part of pydantic's location that names places in the file, not members of unions."""
    for index, key in enumerate(location):
        last = index == len(location) - 1
        in_list = isinstance(data, list) and isinstance(key, int) and key < len(data)
        if in_list or (isinstance(data, dict) and key in data):
            data = data[key]
            yield key
        elif last and isinstance(data, dict):
            yield key


def _line(path: Path, keys: list[int | str]) -> int:
    from ruamel.yaml import YAML

    node: Any = YAML(typ="rt", pure=True).load(path.read_text("utf-8"))
    line = 1
    for key in keys:
        try:
            places = node.lc
            mark = places.item(key) if isinstance(node, list) else places.key(key)
            line, node = mark[0] + 1, node[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line


def _depth(data: Any, limit: int) -> int:
    if limit < 0 or not isinstance(data, dict | list):
        return 0
    values = data.values() if isinstance(data, dict) else data
    return 1 + max((_depth(value, limit - 1) for value in values), default=0)
