"""From a model folder to an encoder: no code of the folder's own, weights from safetensors only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from kdpipe import heads
from kdpipe.config import nearest
from kdpipe.encoder import ACTIVATIONS, Dense, Encoder
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.hub import read_json
from kdpipe.modules import HeadSpec, modules_of, transformer_folder
from kdpipe.nets.crf import CRF
from kdpipe.nets.crf import FILE as CRF_FILE
from kdpipe.nets.pretrained import MODEL_TYPES

_ENCODERS = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES, *MODEL_TYPES}
"""Model types that read text."""
_UNLOADABLE = (
    *(OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError),
    *(ArithmeticError, AssertionError, SafetensorError, StrictDataclassError),
)
"""What the libraries raise on damaged files and on configs that make no sense."""


def load_encoder(folder: Path, head: HeadSpec, *, mlm: bool = False) -> Encoder:
    """The encoder in a model folder, with the head that `head_of` read or the caller changed.

    With `mlm` it is a masked language model, whatever else its folder says.

    Raises:
        ArtifactError: not an encoder, a module that kdpipe does not know, damaged files, or with
            `mlm` no such head.
    """
    transformer, made_of_modules = transformer_folder(folder), bool(modules_of(folder))
    config = _config(transformer)
    answers = None if made_of_modules else heads.kind_of(config)
    answers = "mlm" if mlm else answers
    if not made_of_modules and config.model_type not in _ENCODERS:
        raise ArtifactError(
            f"{folder} is a {config.model_type!r} model, which is no text encoder: use one such as"
            " BERT, or a folder with sentence-transformers modules"
        )
    model = _load(transformer, config, AutoModel if answers is None else heads.MODELS[answers])
    crf = None
    if answers == "token" and (transformer / CRF_FILE).is_file():
        crf = _crf(transformer / CRF_FILE, len(heads.classes_of(config, answers)))
    return _own(Encoder(model, head, [_dense(path) for path in head.dense], answers, crf)).eval()


def new_transformer(config: PreTrainedConfig) -> PreTrainedModel:
    """A transformer with fresh weights; raises UsageError for a shape that cannot be."""
    try:
        model: PreTrainedModel = AutoModel.from_config(
            config, trust_remote_code=False, attn_implementation=_attention()
        )
    except _UNLOADABLE as error:
        raise UsageError(f"the student's shape cannot be built: {_first(error)}") from None
    return model


def _own(encoder: Encoder) -> Encoder:
    """With weights in memory of its own: what is written into the files later changes none."""
    for tensor in (*encoder.parameters(), *encoder.buffers()):
        tensor.data = tensor.data.clone()
    return encoder


def _config(folder: Path) -> PreTrainedConfig:
    try:
        found: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except _UNLOADABLE as error:
        raise ArtifactError(f"{folder}: config.json cannot be read ({_first(error)})") from None
    return found


def _load(folder: Path, config: PreTrainedConfig, kind: Any) -> PreTrainedModel:
    """In fp32, without code of its own and from safetensors only."""
    try:
        model, loading = kind.from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            attn_implementation=_attention(),
            output_loading_info=True,
        )
    except _UNLOADABLE as error:
        raise ArtifactError(f"{folder}: the model cannot be loaded ({_first(error)})") from None
    # Only a head that gives logits reads what a pooler says.
    missing = sorted(
        key
        for key in loading["missing_keys"]
        if kind is not AutoModel or ".pooler." not in f".{key}"
    )
    if missing and kind is heads.MODELS["mlm"]:
        raise ArtifactError(
            f"{folder}: its weights lack {missing[0]}, so it is no masked language model: use one"
            " that was saved with its head, such as a pretrained BERT"
        )
    if missing:
        raise ArtifactError(f"{folder}: its weights lack {missing[0]}, which config.json asks for")
    found: PreTrainedModel = model
    return found


def _dense(path: Path) -> Dense:
    config = read_json(path / "config.json")
    if config.get("use_residual"):
        raise ArtifactError(f"{path}: a dense module with use_residual is not known")
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2].rstrip("()")
    if activation not in ACTIVATIONS:
        raise ArtifactError(
            f"{path}: activation {activation!r}: {nearest(activation, [*ACTIVATIONS])}"
        )
    try:
        layer = Dense(
            int(config["in_features"]),
            int(config["out_features"]),
            bias=bool(config.get("bias", True)),
            activation=activation,
        )
        layer.load_state_dict(load_file(path / "model.safetensors"))
    except _UNLOADABLE as error:
        raise ArtifactError(
            f"{path}: the dense module cannot be loaded ({_first(error)})"
        ) from None
    return layer


def _crf(path: Path, labels: int) -> CRF:
    crf = CRF(labels)
    try:
        crf.load_state_dict(load_file(path))
    except _UNLOADABLE as error:
        raise ArtifactError(f"{path}: the CRF cannot be loaded ({_first(error)})") from None
    return crf


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _attention() -> str | None:
    """Eager attention is the faster one for short rows on CPUs; elsewhere torch's choice is."""
    return None if torch.cuda.is_available() else "eager"
