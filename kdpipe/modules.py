"""What a model folder says about itself: its modules, head, prompt, limits and identity.

Reads JSON only, so that questions about a model are answered without loading it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdpipe import io, records
from kdpipe.config import nearest
from kdpipe.errors import ArtifactError
from kdpipe.hub import read_json, weight_files, weights_digest

FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Pooling -> its key in a folder."""
POOLINGS = tuple(FLAGS)
"""In the order in which sentence-transformers joins them when a model uses several."""
_KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
_JSON_CAP = 1 << 20
_ORDER = f"only the order {', '.join(_KINDS)} is known"
_NOT_IDENTITY = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
_POSITIONS_BEFORE_TEXT = {
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
"""Families that count positions from the padding id on."""


@dataclass(frozen=True)
class HeadSpec:
    """How tokens become one vector."""

    pooling: tuple[str, ...] = ("mean",)
    """One or more of POOLINGS, joined side by side."""
    include_prompt: bool = True
    """Whether the tokens of the prompt are pooled."""
    normalize: bool = False
    """Whether the vector gets length 1."""
    dense: tuple[Path, ...] = ()
    """Folders of the dense modules between pooling and normalising."""


def modules_of(folder: Path) -> list[tuple[Path, str]]:
    """(folder, kind) of each sentence-transformers module; [] for a plain model."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        listed = records.parse(records.read_regular(path, _JSON_CAP))
    except ValueError:
        raise ArtifactError(f"{path} is not valid JSON") from None
    if not isinstance(listed, list) or not all(isinstance(module, dict) for module in listed):
        raise ArtifactError(f"{path} is not a list of modules")
    found = []
    for module in listed:
        kind, place = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        if kind not in _KINDS:
            raise ArtifactError(f"{path}: module {kind!r} is not known: {nearest(kind, [*_KINDS])}")
        if Path(place).name != place:
            raise ArtifactError(f"{path}: path {place!r} is not a folder beside it")
        found.append((folder / place, kind))
    kinds = [kind for _, kind in found]
    if kinds != sorted(kinds, key=_KINDS.index):
        raise ArtifactError(f"{path}: modules run in the order {', '.join(kinds)}: {_ORDER}")
    return found


def head_of(folder: Path, *, pooling: str | None = None, normalize: bool | None = None) -> HeadSpec:
    """The head of a model folder, or what the caller wants of it; mean pooling without modules."""
    head = HeadSpec()
    for path, kind in modules_of(folder):
        if kind == "Pooling":
            config = read_json(path / "config.json")
            include_prompt = bool(config.get("include_prompt", True))
            head = replace(head, pooling=_pooling(config, path), include_prompt=include_prompt)
        elif kind == "Dense":
            head = replace(head, dense=(*head.dense, path))
        elif kind == "Normalize":
            head = replace(head, normalize=True)
    if pooling is not None:
        head = replace(head, pooling=(pooling,))
    return head if normalize is None else replace(head, normalize=normalize)


def transformer_folder(folder: Path) -> Path:
    """Where the transformer of a sentence-transformers folder lies; the folder itself otherwise."""
    return next((path for path, kind in modules_of(folder) if kind == "Transformer"), folder)


def default_prompt(folder: Path) -> str:
    """The prompt that a sentence-transformers folder puts before every text; empty without one."""
    config = read_json(folder / "config_sentence_transformers.json")
    name, prompts = config.get("default_prompt_name"), config.get("prompts")
    if not isinstance(prompts, dict) or not isinstance(name, str):
        return ""
    return str(prompts.get(name) or "")


def own_limit(folder: Path) -> int:
    """The longest row that a model is meant for, in tokens, special tokens included."""
    transformer = transformer_folder(folder)
    stated = read_json(transformer / "sentence_bert_config.json").get("max_seq_length")
    if stated is None:
        stated = read_json(transformer / "tokenizer_config.json").get("model_max_length")
    positions = position_limit(folder)
    limit = min(stated, positions) if isinstance(stated, int) else positions
    if limit < 1:
        raise ArtifactError(f"{folder} is meant for rows of {limit} tokens: mend max_seq_length")
    return limit


def position_limit(folder: Path) -> int:
    """How many tokens a model has positions for."""
    return positions_for_text(read_json(transformer_folder(folder) / "config.json"))


def positions_for_text(config: dict[str, Any]) -> int:
    """How many tokens a model of this config has positions for; 512 where it does not say."""
    positions = config.get("max_position_embeddings") or 512
    if not isinstance(positions, int):
        raise ArtifactError(f"max_position_embeddings is {positions!r}, which is no number")
    if str(config.get("model_type")) in _POSITIONS_BEFORE_TEXT:
        before = config.get("pad_token_id", 1)
        if not isinstance(before, int):
            raise ArtifactError(f"pad_token_id is {before!r}, which is no number")
        return positions - before - 1
    return positions


def encoder_identity(folder: Path, head: HeadSpec) -> str:
    """sha256 of all that decides what an encoder says: weights, config, head; not where it lies.

    Raises:
        ArtifactError: weights are not there as safetensors.
    """
    transformer = transformer_folder(folder)
    config = read_json(transformer / "config.json")
    files = [file for path in (transformer, *head.dense) for file in weight_files(path)]
    return io.identity(
        {
            "weights": [weights_digest(path) for path in files],
            "config": {key: config[key] for key in config if key not in _NOT_IDENTITY},
            "dense": [read_json(path / "config.json") for path in head.dense],
            "head": [list(head.pooling), head.include_prompt, head.normalize],
        }
    )


def _pooling(config: dict[str, Any], path: Path) -> tuple[str, ...]:
    """Reads the form with one flag a mode, and the newer one with `pooling_mode`."""
    mode = config.get("pooling_mode")
    if mode is None:
        names = [name for name in POOLINGS if config.get(FLAGS[name])]
    else:
        names = list(mode) if isinstance(mode, list) else [mode]
    names = ["mean_sqrt_len" if name == "mean_sqrt_len_tokens" else name for name in names]
    unknown = [str(name) for name in names if name not in POOLINGS]
    if unknown or not names:
        raise ArtifactError(
            f"{path}: pooling {', '.join(unknown) or 'none'}: allowed: {', '.join(POOLINGS)}"
        )
    return tuple(names)
