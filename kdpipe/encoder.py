"""A text encoder: a transformer, and the head that turns its tokens into one vector.

Teacher, baseline and student are all of this type, so what is said live and what is kept in a
cache come out of the same forward pass. Legend: B rows, N real tokens, T longest row, D width.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from kdpipe.activations import Activations, Dims, Needs, Tokens
from kdpipe.batches import by_length
from kdpipe.config import nearest
from kdpipe.device import Dtype, autocast
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.hub import read_json
from kdpipe.modules import HeadSpec, modules_of, transformer_folder

ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU}
_UNLOADABLE = (
    *(OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError),
    *(ArithmeticError, AssertionError, SafetensorError, StrictDataclassError),
)
"""What the libraries raise on damaged files and on configs that make no sense."""


class Dense(nn.Module):
    """A linear layer with an activation, as sentence-transformers keeps it."""

    def __init__(
        self, width: int, out: int, *, bias: bool = True, activation: str = "Tanh"
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out, bias=bias)
        self.activation = activation
        self._function = ACTIVATIONS[activation]()

    def forward(self, vectors: Tensor) -> Tensor:
        """[B, D] to [B, E]."""
        result: Tensor = self._function(self.linear(vectors))
        return result


class Encoder(nn.Module):
    """A transformer with its head."""

    def __init__(self, model: PreTrainedModel, head: HeadSpec, dense: list[Dense]) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.dense = nn.ModuleList(dense)
        self.typed = "token_type_ids" in inspect.signature(model.forward).parameters
        self.typed &= getattr(model.config, "type_vocab_size", 1) > 1
        self._pad_id = model.config.pad_token_id or 0

    @property
    def dims(self) -> Dims:
        """Widths and depth."""
        config = self.model.config
        width = int(config.hidden_size)
        last = width * len(self.head.pooling)
        for dense in self.dense:
            assert isinstance(dense, Dense)
            last = dense.linear.out_features
        return Dims(embedding=last, hidden=width, layers=int(config.num_hidden_layers))

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def forward(self, tokens: Tokens, needs: Needs) -> Activations:
        """What the model says about rows that lie on its device; values are fp32."""
        mask = tokens.mask()
        inputs = {"input_ids": tokens.padded(self._pad_id), "attention_mask": mask.long()}
        if self.typed:
            inputs["token_type_ids"] = tokens.types()
        said = self.model(**inputs, output_hidden_states=bool(needs.hidden), return_dict=True)
        hidden = {layer: said.hidden_states[layer][mask].float() for layer in sorted(needs.hidden)}
        vectors = None
        if needs.embedding:
            vectors = self._embed(said.last_hidden_state.float(), mask, tokens)
        return Activations(tokens.lengths, vectors, hidden)

    def _embed(self, states: Tensor, mask: Tensor, tokens: Tokens) -> Tensor:
        """[B, T, D] to [B, E]."""
        pooled = mask.clone()
        if not self.head.include_prompt:
            pooled[:, : tokens.prompt_tokens] = False
        with torch.autocast(states.device.type, enabled=False):
            parts = [pool(states, pooled, tokens.lengths, name) for name in self.head.pooling]
            vectors = torch.cat(parts, dim=-1)
            for dense in self.dense:
                vectors = dense(vectors)
            return functional.normalize(vectors, dim=-1) if self.head.normalize else vectors


def pool(states: Tensor, mask: Tensor, lengths: Tensor, name: str) -> Tensor:
    """[B, T, D], the places that count [B, T] and the lengths [B] to one vector a row, [B, D]."""
    rows = torch.arange(len(states), device=states.device)
    if name == "cls":
        return states[rows, mask.long().argmax(1)]
    if name == "lasttoken":
        return states[rows, lengths - 1]
    if name == "max":
        return states.masked_fill(~mask[..., None], -torch.inf).amax(1)
    weights = mask.to(states.dtype)
    if name == "weightedmean":
        weights = weights * torch.arange(1, states.shape[1] + 1, device=states.device)
    total = (weights[:, None] @ states).squeeze(1)
    count = weights.sum(1, keepdim=True).clamp(min=1e-9)
    return total / (count.sqrt() if name == "mean_sqrt_len" else count)


def observe(encoder: Encoder, tokens: Tokens, needs: Needs, dtype: Dtype) -> Activations:
    """One forward pass that only looks: eval mode, no gradient, on the encoder's device.

    What it gives are ordinary detached tensors, which a loss may save for its backward pass.
    """
    encoder.eval()
    with torch.inference_mode(), autocast(encoder.device, dtype):
        said = encoder(tokens.to(encoder.device), needs)
    embedding = None if said.embedding is None else said.embedding.clone()
    return Activations(
        said.lengths, embedding, {layer: values.clone() for layer, values in said.hidden.items()}
    )


def keep_in_bf16(encoder: Encoder) -> None:
    """Keep the weights of linear layers as autocast casts them in every pass: the same numbers."""
    for module in encoder.model.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)


def embed(encoder: Encoder, tokens: Tokens, dtype: Dtype, tokens_per_batch: int = 4096) -> Tensor:
    """[B, D] fp32 on the CPU: embeddings of any number of rows, in their order."""
    result = torch.empty(len(tokens), encoder.dims.embedding)
    for batch in map(torch.from_numpy, by_length(tokens.lengths.numpy(), tokens_per_batch)):
        vectors = observe(encoder, tokens.take(batch), Needs(embedding=True), dtype).embedding
        assert vectors is not None
        result[batch] = vectors.cpu()
    return result


def load_encoder(folder: Path, head: HeadSpec) -> Encoder:
    """The encoder in a model folder, with the head that `head_of` read or the caller changed.

    Raises:
        ArtifactError: not an encoder, a module that kdpipe does not know, or damaged files.
    """
    transformer = transformer_folder(folder)
    model = load_transformer(transformer, any_family=bool(modules_of(folder)))
    return Encoder(model, head, [_dense(path) for path in head.dense]).eval()


def new_transformer(config: PreTrainedConfig) -> PreTrainedModel:
    """A transformer with fresh weights; raises UsageError for a shape that cannot be."""
    try:
        model: PreTrainedModel = AutoModel.from_config(
            config, trust_remote_code=False, attn_implementation=_attention()
        )
    except (ValueError, RuntimeError, AssertionError) as error:
        raise UsageError(f"the student's shape cannot be built: {_first(error)}") from None
    return model


def load_transformer(folder: Path, *, any_family: bool = False) -> PreTrainedModel:
    """The transformer of a folder in fp32, without code of its own and from safetensors only."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except _UNLOADABLE as error:
        raise ArtifactError(f"{folder}: config.json cannot be read ({_first(error)})") from None
    if not any_family and config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ArtifactError(
            f"{folder} is a {config.model_type!r} model, which is no text encoder: use one such as"
            " BERT, or a folder with sentence-transformers modules"
        )
    try:
        model, loading = AutoModel.from_pretrained(
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
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))
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


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _attention() -> str | None:
    """Eager attention is the faster one for short rows on CPUs; elsewhere torch's choice is."""
    return None if torch.cuda.is_available() else "eager"
