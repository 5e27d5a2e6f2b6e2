"""Heads that give logits: for a row, for its tokens, or for the start and end of a span.

They are those of transformers, so that a student's folder loads there as what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from kdpipe.parts import LOGITS, TOKEN_LOGITS, Part

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

HeadKind = Literal["sequence", "token", "span"]
PARTS: dict[HeadKind, Part] = {"sequence": LOGITS, "token": TOKEN_LOGITS, "span": TOKEN_LOGITS}
"""What a head's logits are about; a span head gives two for each token, start and end."""
MODELS: dict[HeadKind, Any] = {
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
}
_ENDS: dict[str, HeadKind] = {
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "span",
}


def kind_of(config: PreTrainedConfig) -> HeadKind | None:
    """The head that a model folder says it has."""
    for name in config.architectures or []:
        for end, kind in _ENDS.items():
            if name.endswith(end):
                return kind
    return None


def classes_of(config: PreTrainedConfig, kind: HeadKind | None) -> tuple[str, ...]:
    """Names of what the logits are about, in their order."""
    if kind is None:
        return ()
    if kind == "span":
        return ("start", "end")
    names: dict[int, str] = config.to_dict()["id2label"]
    return tuple(str(names[number]) for number in sorted(names))


def logits_of(said: Any) -> Tensor:
    """`[B, C]` or `[B, T, C]` from what a headed model returns."""
    if "start_logits" in said:
        return torch.stack([said.start_logits, said.end_logits], dim=-1)
    logits: Tensor = said.logits
    return logits


def put_on(base: PreTrainedModel, kind: HeadKind, **keys: Any) -> PreTrainedModel:
    """A model with the weights of `base` and a fresh head; `keys` go into its config."""
    config = type(base.config).from_dict(base.config.to_dict() | keys)
    model: PreTrainedModel = MODELS[kind].from_config(
        config,
        trust_remote_code=False,
        attn_implementation=base.config._attn_implementation,
    )
    model.base_model.load_state_dict(base.state_dict(), strict=False)
    return model
