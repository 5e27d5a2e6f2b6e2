"""Heads that give logits: for a row, its tokens, the ends of a span, or what is masked.

They are those of transformers, so that a student's folder loads there as what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from kdpipe.errors import UsageError
from kdpipe.parts import LOGITS, MASKED_LOGITS, TOKEN_LOGITS, HeadKind, Part, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

PARTS: dict[HeadKind, Part] = {
    "sequence": LOGITS,
    "token": TOKEN_LOGITS,
    "span": TOKEN_LOGITS,
    "mlm": MASKED_LOGITS,
}
"""What a head's logits are about; a span head gives two for each token, start and end."""
MODELS: dict[HeadKind, Any] = {
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
    "mlm": AutoModelForMaskedLM,
}
_ENDS: dict[str, HeadKind] = {
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "span",
}
"""Not `ForMaskedLM`: most base models say so, and people want their embeddings."""
ENDS_OF_SPAN, NUMBER = ("start", "end"), ("score",)
"""What the logits of a span head, and of a regression, are about; names in a config are not."""


def kind_of(config: PreTrainedConfig) -> HeadKind | None:
    """The head that a model folder says it has."""
    for name in config.architectures or []:
        for end, kind in _ENDS.items():
            if str(name).endswith(end):
                return kind
    return None


def classes_of(config: PreTrainedConfig, kind: HeadKind | None) -> tuple[str, ...]:
    """Names of what the logits are about, in their order."""
    if kind is None or kind == "mlm":
        return ()
    if kind == "span":
        return ENDS_OF_SPAN
    if config.num_labels == 1 and problem_of(config, kind) == "regression":
        return NUMBER
    names: dict[int, str] = config.to_dict()["id2label"]
    return tuple(str(names[number]) for number in sorted(names))


def problem_of(config: PreTrainedConfig, kind: HeadKind) -> Problem:
    """What the logits mean; a sequence head of one class without a word on it is a regression."""
    if kind != "sequence":
        return kind
    stated: Problem | None = config.problem_type
    return stated or ("regression" if config.num_labels == 1 else "single_label_classification")


def logits_of(said: Any) -> Tensor:
    """`[B, C]` or `[B, T, C]` from what a headed model returns."""
    if "start_logits" in said:
        return torch.stack([said.start_logits, said.end_logits], dim=-1)
    logits: Tensor = said.logits
    return logits


def put_on(base: PreTrainedModel, kind: HeadKind, **keys: Any) -> PreTrainedModel:
    """A model with the weights of `base` and a fresh head; `keys` go into its config.

    Raises:
        UsageError: transformers has no such head for this family.
    """
    config = type(base.config).from_dict(base.config.to_dict() | keys)
    try:
        model: PreTrainedModel = MODELS[kind].from_config(
            config,
            trust_remote_code=False,
            attn_implementation=base.config._attn_implementation,
        )
    except ValueError:
        raise UsageError(
            f"a {config.model_type!r} model has no head of kind {kind!r}: use another kind of model"
        ) from None
    model.base_model.load_state_dict(base.state_dict(), strict=False)
    return model


def copy(source: PreTrainedModel, target: PreTrainedModel) -> bool:
    """The weights of a head, where both have the same shapes; else `target` keeps its own.

    Says whether it did.
    """
    theirs, mine = _weights(source), _weights(target)
    shapes = ({k: v.shape for k, v in weights.items()} for weights in (theirs, mine))
    alike = next(shapes) == next(shapes)
    if alike:
        target.load_state_dict(theirs, strict=False)
    return alike


def _weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of the head alone, without those that it shares with the transformer."""
    prefix, weights = f"{model.base_model_prefix}.", model.state_dict()
    below = {weight.data_ptr() for name, weight in weights.items() if name.startswith(prefix)}
    return {
        name: weight
        for name, weight in weights.items()
        if not name.startswith(prefix) and weight.data_ptr() not in below
    }
