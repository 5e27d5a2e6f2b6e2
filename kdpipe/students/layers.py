"""A student made of chosen layers of its teacher."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from kdpipe.errors import UsageError
from kdpipe.students.base import StudentKind
from kdpipe.students.narrow import Narrow, keep_dimensions, narrower, project_embeddings, resize

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kdpipe.encoder import Encoder
    from kdpipe.tokenizer import Tokenizer


class FromTeacher(StudentKind):
    """Embeddings and chosen layers of the teacher, weights included, as wide or narrower."""

    kind: Literal["teacher_layers"]
    layers: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """Which layers of the teacher to keep, in their order; 1 is the first."""
    config: dict[str, Any] = {}
    """Hugging Face config keys to change, such as `hidden_dropout_prob`."""
    hidden_size: PositiveInt | None = None
    """Numbers of a hidden state; None: the teacher's."""
    num_attention_heads: PositiveInt | None = None
    """Attention heads; None: as many as `hidden_size` has room for, as wide as the teacher's."""
    intermediate_size: PositiveInt | None = None
    """Feed-forward units of a layer; None: the teacher's."""
    narrow: Narrow = "dimensions"
    """How a narrower student begins. `dimensions`: the teacher's most used dimensions, heads and
    units, of all weights alike; `svd`: its embeddings on their leading singular vectors, and as
    many fresh layers as `layers` has."""

    @model_validator(mode="after")
    def _each_layer_once(self) -> FromTeacher:
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers {list(self.layers)}: a layer can be kept only once")
        return self

    def build(self, teacher: Encoder | None, tokenizer: Tokenizer) -> PreTrainedModel:
        """The transformer; raises UsageError for layers or widths that cannot be had."""
        from kdpipe.anatomy import keep_layers
        from kdpipe.load import new_transformer
        from kdpipe.students.shape import with_keys

        assert teacher is not None, "a student without caches is refused before"
        source = teacher.base.config
        weights = keep_layers(source, teacher.base.state_dict(), self.layers)
        config = copy.deepcopy(source)
        for key, value in source.to_dict().items():
            if isinstance(value, list) and len(value) == source.num_hidden_layers:
                setattr(config, key, [value[layer - 1] for layer in self.layers])
        config.num_hidden_layers = len(self.layers)
        sizes = narrower(
            source, self.narrow, self.hidden_size, self.num_attention_heads, self.intermediate_size
        )
        if sizes is not None:
            resize(config, sizes)
            begin = keep_dimensions if self.narrow == "dimensions" else project_embeddings
            weights = begin(source, weights, sizes)
        model = new_transformer(with_keys(config, self.config))
        fresh = model.state_dict()
        for name in sorted(weights.keys() & fresh.keys()):
            if weights[name].shape != fresh[name].shape:
                raise UsageError(
                    f"config {self.config}: {name} would have the shape {[*fresh[name].shape]}, the"
                    f" teacher's is {[*weights[name].shape]}: only hidden_size, num_attention_heads"
                    " and intermediate_size can be changed, beside 'config'"
                )
        absent = model.load_state_dict(weights, strict=False).missing_keys
        # Below many heads a teacher has no pooler.
        missing = [name for name in absent if not name.startswith("pooler.")]
        if missing and (sizes is None or self.narrow == "dimensions"):
            raise UsageError(
                f"layers {list(self.layers)} of a {source.model_type!r} model lack {missing[0]},"
                " which its first layer has otherwise: let layer 1 come first"
            )
        return model
