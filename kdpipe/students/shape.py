"""A student of any Hugging Face shape, with fresh weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict

from kdpipe.config import Frozen, nearest
from kdpipe.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from kdpipe.encoder import Encoder


class FromShape(Frozen):
    """A new model: `model_type` and any config key of that family; the rest has its defaults."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["shape"]
    model_type: str = "bert"
    """A Hugging Face model type: `bert`, `roberta`, `distilbert`, `modernbert`, ..."""

    def build(self, teacher: Encoder, vocabulary: int) -> PreTrainedModel:
        """The transformer; raises UsageError for an unknown model type or key."""
        from transformers import CONFIG_MAPPING, AutoConfig

        from kdpipe.load import new_transformer

        if self.model_type not in CONFIG_MAPPING:
            known = sorted(CONFIG_MAPPING.keys())
            hint = nearest(self.model_type, known).partition(" allowed")[0]
            raise UsageError(f"model_type {self.model_type!r} is not known to transformers; {hint}")
        special = {
            key: value
            for key in (
                "pad_token_id",
                "bos_token_id",
                "eos_token_id",
                "cls_token_id",
                "sep_token_id",
            )
            if (value := getattr(teacher.model.config, key, None)) is not None
        }
        config = AutoConfig.for_model(self.model_type, vocab_size=vocabulary, **special)
        return new_transformer(with_keys(config, self.__pydantic_extra__ or {}))


def with_keys(config: PreTrainedConfig, keys: dict[str, Any]) -> PreTrainedConfig:
    """`config` with `keys` set; raises UsageError for a key that this family does not have."""
    known = [*config.to_dict(), *config.attribute_map]
    for key, value in keys.items():
        if key not in known:
            hint = nearest(key, known).partition(" allowed")[0]
            raise UsageError(f"a {config.model_type!r} model has no config key {key!r}; {hint}")
        setattr(config, key, value)
    try:
        return type(config).from_dict(config.to_dict())
    except (TypeError, ValueError) as error:
        raise UsageError(f"config of the student: {str(error).splitlines()[0]}") from None
