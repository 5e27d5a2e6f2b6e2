"""A student of any Hugging Face shape, with fresh weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict

from kdpipe.config import nearest
from kdpipe.errors import UsageError
from kdpipe.students.base import StudentKind

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from kdpipe.encoder import Encoder
    from kdpipe.tokenizer import Tokenizer


class FromShape(StudentKind):
    """A new model: `model_type` and any config key of that family; the rest has its defaults."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["shape"]
    model_type: str = "bert"
    """A Hugging Face model type: `bert`, `roberta`, `distilbert`, `modernbert`, ..."""

    def build(self, teacher: Encoder | None, tokenizer: Tokenizer) -> PreTrainedModel:
        """The transformer; raises UsageError for an unknown model type or key."""
        from transformers import CONFIG_MAPPING, AutoConfig

        from kdpipe.load import new_transformer

        if self.model_type not in CONFIG_MAPPING:
            known = sorted(CONFIG_MAPPING.keys())
            hint = nearest(self.model_type, known).partition(" allowed")[0]
            raise UsageError(f"model_type {self.model_type!r} is not known to transformers; {hint}")
        config = AutoConfig.for_model(self.model_type, vocab_size=_vocabulary(teacher, tokenizer))
        config = with_keys(config, _special(config, tokenizer))
        return new_transformer(with_keys(config, self.__pydantic_extra__ or {}))


def _vocabulary(teacher: Encoder | None, tokenizer: Tokenizer) -> int:
    """Embeddings that a model needs; some have more than their tokenizer has tokens."""
    theirs = 0 if teacher is None else teacher.model.config.vocab_size
    return max(tokenizer.vocabulary, theirs)


def _special(config: PreTrainedConfig, tokenizer: Tokenizer) -> dict[str, int]:
    """`pad_token_id` and the like, of those that this family has."""
    known = config.to_dict()
    ids = {f"{name}_id": tokenizer.backend.token_to_id(t) for name, t in tokenizer.special.items()}
    return {key: number for key, number in ids.items() if key in known}


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
