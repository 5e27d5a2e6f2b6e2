"""A narrower start: the part of a teacher's weights that a student of fewer dimensions begins with.

Legend: V rows of a table of embeddings, D hidden size, A heads of W numbers each, F feed-forward
units; D', A' and F' are those of the student.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from kdpipe.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

Narrow = Literal["dimensions", "svd"]


class Family(NamedTuple):
    """Ends of names within a layer; those of queries, keys and values are in kdpipe.taps."""

    joined: str = "attention.output.dense"
    """The linear layer whose columns are the heads."""
    units: str = "intermediate.dense"
    """The one whose rows are the feed-forward units (for gated ones twice)."""
    summed: str = "output.dense"
    """The one whose columns are the feed-forward units."""
    unit_key: str = "intermediate_size"
    """The config key of their number."""
    words: str = "word_embeddings"
    """The table of the tokens."""


FAMILIES = {
    "bert": Family(),
    "camembert": Family(),
    "distilbert": Family("attention.out_lin", "ffn.lin1", "ffn.lin2", "hidden_dim"),
    "electra": Family(),
    "modernbert": Family("attn.Wo", "mlp.Wi", "mlp.Wo", words="tok_embeddings"),
    "mpnet": Family("attention.attn.o"),
    "roberta": Family(),
    "xlm-roberta": Family(),
}
"""Model type -> where its widths are."""
_KEYS = ("hidden_size", "num_attention_heads", "intermediate_size")
_SHARED_HEADS = "relative_attention_bias"


class Sizes(NamedTuple):
    """The widths of a model."""

    hidden: int
    heads: int
    units: int


def sizes_of(config: PreTrainedConfig) -> Sizes:
    """The widths of a teacher; raises UsageError for a family that cannot be made narrower."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UsageError(
            f"a {config.model_type!r} teacher cannot be made narrower, only {', '.join(FAMILIES)}"
            " can: use kind: shape"
        )
    tables = getattr(config, "embedding_size", config.hidden_size)
    if tables != config.hidden_size:
        raise UsageError(
            f"a teacher with embeddings of {tables} and states of {config.hidden_size} numbers"
            " cannot be made narrower: use kind: shape"
        )
    units = getattr(config, family.unit_key)
    return Sizes(config.hidden_size, config.num_attention_heads, units)


def narrower(
    config: PreTrainedConfig, how: Narrow, hidden: int | None, heads: int | None, units: int | None
) -> Sizes | None:
    """The widths asked of a student of this teacher; None where they are the teacher's own.

    Raises:
        UsageError: a family without a row, more than the teacher has, or heads that do not fit.
    """
    if (hidden, heads, units) == (None, None, None):
        return None
    old = sizes_of(config)
    width = old.hidden // old.heads
    size = hidden or old.hidden
    new = Sizes(size, heads or size // width, units or old.units)
    for key, mine, theirs in zip(_KEYS, new, old, strict=True):
        if mine > theirs:
            raise UsageError(f"{key} {mine} is more than the teacher's {theirs}: use kind: shape")
    if heads is None and size % width:
        below = size // width * width
        either = f"{below} or {below + width}" if below else f"{width}"
        raise UsageError(
            f"hidden_size {size} is no whole number of the teacher's heads of {width} numbers each:"
            f" use {either}"
        )
    if how == "dimensions" and new.heads * width != size:
        raise UsageError(
            f"with {new.heads} of the teacher's heads, of {width} numbers each, hidden_size is"
            f" {new.heads * width}, not {size}: change hidden_size or num_attention_heads"
        )
    return None if new == old else new


def resize(config: PreTrainedConfig, to: Sizes) -> None:
    """Write the widths into a config."""
    config.hidden_size = to.hidden
    config.num_attention_heads = to.heads
    setattr(config, FAMILIES[config.model_type].unit_key, to.units)
    if hasattr(config, "embedding_size"):
        config.embedding_size = to.hidden


def keep_dimensions(
    config: PreTrainedConfig, weights: dict[str, Tensor], to: Sizes
) -> dict[str, Tensor]:
    """The weights of a model of these widths: a part of the teacher's, the same part everywhere.

    Kept are the D' dimensions that the normalisations let through most (the sum of the squares of
    their gains and biases), and in each layer the A' heads of the largest weights and the F' units
    with the largest product of the norms of what they read and what they write. Approximate: a
    normalisation no longer sees what the other dimensions add to its mean and variance.
    """
    from kdpipe.taps import PROJECTIONS

    family, old = FAMILIES[config.model_type], sizes_of(config)
    dims = _largest(_let_through(weights), to.hidden)
    heads, units = _chosen(config, weights, to)
    width = old.hidden // old.heads
    kept = {}
    for name, tensor in weights.items():
        layer, end = _place(config, name)
        rows: Tensor | None = dims
        columns: Tensor | None = dims
        if end in PROJECTIONS[config.model_type]:
            rows = _repeated(_spread(heads[layer], width), len(tensor), old.hidden)
        elif end == family.joined:
            columns = _spread(heads[layer], width)
        elif end == family.units:
            rows = _repeated(units[layer], len(tensor), old.units)
        elif end == family.summed:
            columns = units[layer]
        elif end.endswith(_SHARED_HEADS):
            rows, columns = None, heads[""]
        elif end.endswith("_embeddings"):
            rows = None
        part = tensor if rows is None else tensor[rows]
        kept[name] = part if part.ndim == 1 else part[:, columns]
    return kept


def project_embeddings(
    config: PreTrainedConfig, weights: dict[str, Tensor], to: Sizes
) -> dict[str, Tensor]:
    """The embeddings of a model of these widths, by singular value decomposition; no layers.

    What the normalisation of the embeddings lets through of the V tokens, `[V, D]`, is projected on
    its D' leading right singular vectors, and so are positions and types. Approximate: the gains of
    that normalisation become one number, which keeps the mean length. Layers are left out: their
    gains are bound to single dimensions, and in a rotated basis they are wrong.
    """
    import torch

    family, norm = FAMILIES[config.model_type], _norm_of_embeddings(weights)
    gain = weights[f"{norm}.weight"].double()
    centred = {
        name: tensor.double() - tensor.double().mean(1, keepdim=True)
        for name, tensor in weights.items()
        if name.endswith("_embeddings.weight")
    }
    tokens = centred[f"embeddings.{family.words}.weight"]
    basis = torch.linalg.eigh((tokens * gain).T @ (tokens * gain)).eigenvectors.flip(1)
    basis = basis[:, : to.hidden]
    # Singular vectors have no sign, and the next normalisation takes away what all have in common.
    basis = basis * torch.where(basis.sum(0) < 0, -1.0, 1.0)
    left = (tokens * gain @ basis).square().sum() / tokens.square().sum()
    scale = (left * config.hidden_size / to.hidden).sqrt()
    kept = {name: table * gain @ basis for name, table in centred.items()}
    kept[f"{norm}.weight"] = scale.repeat(to.hidden)
    if f"{norm}.bias" in weights:
        kept[f"{norm}.bias"] = weights[f"{norm}.bias"].double() @ basis
    return {name: tensor.to(weights[name].dtype) for name, tensor in kept.items()}


def _norm_of_embeddings(weights: dict[str, Tensor]) -> str:
    (name,) = (n for n in weights if re.fullmatch(r"embeddings\.\w*norm\.weight", n, re.IGNORECASE))
    return name.removesuffix(".weight")


def _place(config: PreTrainedConfig, name: str) -> tuple[str, str]:
    """The layer of a weight ("" outside of all) and the name of its module within."""
    from kdpipe.anatomy import LAYERS

    module = name.rpartition(".")[0]
    found = re.fullmatch(rf"{re.escape(LAYERS[config.model_type])}\.(\d+)\.(.+)", module)
    return (found[1], found[2]) if found else ("", module)


def _let_through(weights: dict[str, Tensor]) -> Tensor:
    """[D]: the squares of gains and biases, summed over all normalisations."""
    import torch

    gains = [name for name, gain in weights.items() if name.endswith(".weight") and gain.ndim == 1]
    names = [f"{gain.removesuffix('weight')}{end}" for gain in gains for end in ("weight", "bias")]
    squares = [weights[name].double().square() for name in names if name in weights]
    return torch.stack(squares).sum(0)


def _chosen(
    config: PreTrainedConfig, weights: dict[str, Tensor], to: Sizes
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Layer -> which heads `[A']`, and layer -> which units `[F']`; "" is what all layers share."""
    import torch

    from kdpipe.taps import PROJECTIONS

    family, old = FAMILIES[config.model_type], sizes_of(config)
    heads: dict[str, Tensor] = {}
    units: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        layer, end = _place(config, name)
        if not layer or tensor.ndim == 1:
            continue
        squares = tensor.double().square()
        along = squares.sum(0 if end in {family.joined, family.summed} else 1)
        if end in {*PROJECTIONS[config.model_type], family.joined}:
            score = along.reshape(-1, old.heads, old.hidden // old.heads).sum((0, 2))
            heads[layer] = heads[layer] + score if layer in heads else score
        else:
            score = along.reshape(-1, old.units).sum(0)
            units[layer] = units[layer] * score if layer in units else score
    if any(_SHARED_HEADS in name for name in weights):
        # One table of biases has a column for each head of every layer.
        heads = dict.fromkeys([*heads, ""], torch.stack([*heads.values()]).sum(0))
    return (
        {layer: _largest(scores, to.heads) for layer, scores in heads.items()},
        {layer: _largest(scores, to.units) for layer, scores in units.items()},
    )


def _largest(scores: Tensor, count: int) -> Tensor:
    """Where the `count` largest scores are, in the order of their places."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _spread(heads: Tensor, width: int) -> Tensor:
    """[A'] heads as the [A' W] numbers that they are made of."""
    import torch

    return (heads[:, None] * width + torch.arange(width, device=heads.device)).flatten()


def _repeated(places: Tensor, length: int, period: int) -> Tensor:
    """The same places in each of several matrices that lie one below the other."""
    import torch

    return torch.cat([places + start for start in range(0, length, period)])
