"""Where the layers are in each model family: a table, and the one thing done with it.

A family is a row: the path of its list of layers inside the base model. Families that share one
layer's weights among all (ALBERT) have no row: layers cannot be chosen from them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kdpipe.config import nearest
from kdpipe.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

LAYERS = {
    "bert": "encoder.layer",
    "camembert": "encoder.layer",
    "deberta-v2": "encoder.layer",
    "distilbert": "transformer.layer",
    "electra": "encoder.layer",
    "modernbert": "layers",
    "mpnet": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
}
"""Model type -> where its list of layers is."""


def keep_layers(
    config: PreTrainedConfig, weights: dict[str, Tensor], layers: tuple[int, ...]
) -> dict[str, Tensor]:
    """The weights of a model that has only `layers` (1 is the first), renumbered from the first.

    Raises:
        UsageError: a family without a row, or a layer that the model does not have.
    """
    path = LAYERS.get(config.model_type)
    if path is None:
        raise UsageError(
            f"layers of a {config.model_type!r} model cannot be chosen:"
            f" {nearest(config.model_type, sorted(LAYERS))}; use kind: shape or kind: checkpoint"
        )
    depth = config.num_hidden_layers
    missing = [layer for layer in layers if not 1 <= layer <= depth]
    if missing:
        raise UsageError(
            f"the teacher has layers 1 to {depth}, not {missing[0]}: choose among them"
        )
    place = {layer - 1: index for index, layer in enumerate(layers)}
    pattern = re.compile(rf"^{re.escape(path)}\.(\d+)\.")
    kept = {}
    for name, tensor in weights.items():
        found = pattern.match(name)
        if found is None:
            kept[name] = tensor
        elif int(found[1]) in place:
            kept[f"{path}.{place[int(found[1])]}.{name[found.end() :]}"] = tensor
    return kept
