"""A student made of chosen layers of its teacher."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from kdpipe.config import Frozen
from kdpipe.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kdpipe.encoder import Encoder


class FromTeacher(Frozen):
    """Embeddings and chosen layers of the teacher, weights included."""

    kind: Literal["teacher_layers"]
    layers: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """Which layers of the teacher to keep, in their order; 1 is the first."""
    config: dict[str, Any] = {}
    """Hugging Face config keys to change, such as `hidden_dropout_prob`."""

    @model_validator(mode="after")
    def _each_layer_once(self) -> FromTeacher:
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers {list(self.layers)}: a layer can be kept only once")
        return self

    def build(self, teacher: Encoder, vocabulary: int) -> PreTrainedModel:
        """The transformer; raises UsageError for layers that cannot be had."""
        from kdpipe.anatomy import keep_layers
        from kdpipe.load import new_transformer
        from kdpipe.students.shape import with_keys

        source = teacher.model.config
        weights = keep_layers(source, teacher.base.state_dict(), self.layers)
        config = copy.deepcopy(source)
        for key, value in source.to_dict().items():
            if isinstance(value, list) and len(value) == source.num_hidden_layers:
                setattr(config, key, [value[layer - 1] for layer in self.layers])
        config.num_hidden_layers = len(self.layers)
        model = new_transformer(with_keys(config, self.config))
        missing = model.load_state_dict(weights, strict=False).missing_keys
        if missing:
            raise UsageError(
                f"layers {list(self.layers)} of a {source.model_type!r} model lack {missing[0]},"
                " which its first layer has otherwise: let layer 1 come first"
            )
        return model
