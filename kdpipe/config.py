"""From YAML to frozen models: every mistake is one line with file, line, dotted key and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from kdpipe.errors import UsageError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_BYTES = 256 << 10
MAX_DEPTH = 32
MAX_NODES = 50_000

_IDENTITY = "identity"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
"""Names become folder names: lower case letters, digits, '-' and '_'."""


ELSEWHERE = {
    "batch_size": "tokens_per_batch",
    "bigru": "recurrent",
    "bilstm": "recurrent",
    "ckpt_steps": "save_steps",
    "data_dir": "sources",
    "dataset_path": "sources",
    "epochs": "num_train_epochs",
    "gradient_clip_val": "max_grad_norm",
    "input_file": "files",
    "kd_loss_type": "loss",
    "kd_loss_weight": "weight",
    "lr": "learning_rate",
    "max_epochs": "num_train_epochs",
    "max_sentence_length": "max_seq_length",
    "num_relation_heads": "heads",
    "num_steps": "max_steps",
    "num_warmup_steps": "warmup_steps",
    "patience": "early_stopping_patience",
    "per_device_train_batch_size": "tokens_per_batch",
    "proj": "projection",
    "tag_col": "label_column",
    "temp": "temperature",
}
"""What other systems call what a pipeline file says, where the letters alone do not tell."""


def nearest(word: str, known: list[str]) -> str:
    """A sentence that names what is allowed and, when close enough, what was meant."""
    same = ELSEWHERE.get(word)
    close = [same] if same in known else difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}allowed: {', '.join(known) or 'nothing'}"


class MisplacedError(ValueError):
    """A mistake at a key below the model that finds it; `keys` lead there, for the line number."""

    def __init__(self, keys: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.keys = keys


class Frozen(BaseModel):
    """Base of everything a pipeline file can say: immutable, no unknown keys."""

    # Docstrings of fields are for readers: pydantic would parse all files again at every start.
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(data, dict) and info.context == _IDENTITY:
            data = {key: value for key, value in data.items() if not cls._is_default(key, value)}
        if isinstance(data, dict) and cls.model_config.get("extra") == "forbid":
            # Looked up once: a manifest has tens of thousands of these.
            fields = cls.model_fields
            if not data.keys() <= fields.keys():
                key = next(key for key in data if key not in fields)
                allowed = nearest(str(key), [*fields])
                raise MisplacedError((key,), f"unknown key {key!r}: {allowed}")
        return data

    def identity(self) -> dict[str, Any]:
        """The JSON form of all fields, defaults included: what enters manifests and digests."""
        return self.model_dump(mode="json")

    @classmethod
    def of_identity(cls, record: dict[str, Any]) -> Self:
        """What `identity` gave, back again: a default in it is nothing that somebody has said.

        Raises ValueError for what this version would not have given.
        """
        return cls.model_validate(record, context=_IDENTITY)

    @classmethod
    def _is_default(cls, key: str, value: Any) -> bool:
        field = cls.model_fields.get(key)
        if field is None or field.is_required():
            return False
        default = field.get_default(call_default_factory=True)
        adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
        return bool(adapter.dump_python(default, mode="json") == value)


Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file; raises UsageError with the line of a mistake."""
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the pipeline file in it")
    if not path.is_file():
        raise UsageError(f"{path}: no such file; 'kdpipe init' writes one")
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise UsageError(
            f"{path}: {path.stat().st_size:,} bytes, a pipeline file has at most {MAX_BYTES:,}:"
            " make several"
        )
    try:
        # Before anything is built of it: aliases can make much of little.
        node = _yaml("safe").compose(text := raw.decode("utf-8"))
        if node is not None and _size(node, {}) > MAX_NODES:
            raise UsageError(
                f"{path}: more than {MAX_NODES:,} keys and values, with those of its aliases: make"
                " several files"
            )
        data = _yaml("safe").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (YAMLError, RecursionError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if data is None:
        raise UsageError(f"{path} is empty: remove it, then 'kdpipe init' writes one")
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected a mapping, found {type(data).__name__}")
    if _depth(data, MAX_DEPTH) > MAX_DEPTH:
        raise UsageError(f"{path}: nested deeper than {MAX_DEPTH} levels: mend its brackets")
    return data


def _yaml(kind: str) -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ=kind, pure=True)
    # An anchor may be given again: then the later one counts, and nobody has to be warned.
    yaml.composer.warn_double_anchors = False
    return yaml


def decode(model: type[Model], data: Any, path: Path) -> Model:
    """Validate `data`, read from `path`; raises UsageError naming line, key, value and remedy."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors()
    first = found[0]
    keys = list(_keys(data, first))
    below = getattr(first.get("ctx", {}).get("error"), "keys", ())
    dotted = ".".join(str(key) for key in keys)
    text = _text([one for one in found if list(_keys(data, one)) == keys])
    where = f"{path}:{_line(path, [*keys, *below])}"
    raise UsageError(f"{where}: {dotted}: {text}" if keys else f"{where}: {text}")


def _keys(data: Any, error: ErrorDetails) -> Iterator[int | str]:
    """The part of pydantic's location that names places in the file, not members of unions."""
    for key in error["loc"]:
        if isinstance(data, dict | list) and data is error["input"]:
            return  # what follows names a member, or what is not there
        in_list = isinstance(data, list) and isinstance(key, int) and key < len(data)
        if in_list or (isinstance(data, dict) and key in data):
            data = data[key]
            yield key


_SHOULD = "Input should be "
_WANTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_parsing": "a number",
    "float_type": "a number",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
}
"""What pydantic calls by names of Python."""


def _text(errors: list[ErrorDetails]) -> str:
    """What is wrong in one place; of a union each member may have said something."""
    first, value = errors[0], errors[0]["input"]
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        last = first["loc"][-1]
        if isinstance(last, int):
            return f"item {last + 1} of the list is required, found {value!r}"
        return f"key {last!r} is required"
    for error in errors:
        if error["type"] == "union_tag_not_found":
            return "key 'kind' is required"
        if error["type"] == "union_tag_invalid":
            kinds = [kind.strip("'") for kind in error["ctx"]["expected_tags"].split(", ")]
            return f"unknown kind {error['ctx']['tag']!r}: {nearest(error['ctx']['tag'], kinds)}"
    if first["type"] == "too_short" and isinstance(value, list):
        said = f"{_SHOULD}a list of at least {first['ctx']['min_length']}"
    elif first["type"] in _WANTED or first["msg"].startswith(_SHOULD):
        members = [_WANTED.get(one["type"], one["msg"].removeprefix(_SHOULD)) for one in errors]
        said = _SHOULD + ", or ".join(dict.fromkeys(members))
    else:
        said = first["msg"]
    return said if isinstance(value, dict) else f"{said}, found {value!r}"


def _line(path: Path, keys: list[int | str]) -> int:
    node: Any = _yaml("rt").load(path.read_text("utf-8"))
    line = 1
    for key in keys:
        try:
            places = node.lc
            mark = places.item(key) if isinstance(node, list) else places.key(key)
            line, node = mark[0] + 1, node[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line


def _size(node: Any, known: dict[int, int]) -> int:
    """Values in a YAML node, those of aliases each time; very many where it is within itself."""
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1
        inner = node.value if isinstance(node.value, list) else []
        flat = [one for item in inner for one in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_size(one, known) for one in flat)
    return known[id(node)]


def _depth(data: Any, limit: int) -> int:
    if limit < 0 or not isinstance(data, dict | list):
        return 0
    values = data.values() if isinstance(data, dict) else data
    return 1 + max((_depth(value, limit - 1) for value in values), default=0)
