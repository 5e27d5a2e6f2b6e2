"""A student of any Hugging Face shape, with fresh weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict

from kdpipe.config import nearest
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.students.base import StudentKind, digest_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from kdpipe.encoder import Encoder
    from kdpipe.tokenizer import Tokenizer


_NOT_SHAPE = {"architectures", "dtype", "id2label", "label2id", "model_type", "problem_type"}
_NOT_SHAPE |= {"output_attentions", "output_hidden_states", "return_dict", "vocab_size"}
_NOT_SHAPE |= {"_name_or_path", "transformers_version"}
"""Keys of a file that are about its weights, its head or its use; keys that a family does not have,
such as `auto_map`, are left out with them."""


class FromShape(StudentKind):
    """A new model: `model_type` and any config key of that family; the rest has its defaults."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["shape"]
    model_type: str = "bert"
    """A Hugging Face model type: `bert`, `roberta`, `distilbert`, `modernbert`, ..."""
    config_file: str | None = None
    """A `config.json` of transformers with model type and keys, of which all that stand here too
    are as here; None: there is none."""

    def files(self) -> list[str]:
        """The file of the config."""
        return [] if self.config_file is None else [self.config_file]

    def inputs(self, root: Path) -> dict[str, str]:
        """The digest of the config; raises ArtifactError where it is not there."""
        if self.config_file is None:
            return {}
        return {"config": digest_of(self.config_file, "config_file", root)}

    def build(self, teacher: Encoder | None, tokenizer: Tokenizer) -> PreTrainedModel:
        """The transformer; raises UsageError for an unknown model type or key."""
        from transformers import CONFIG_MAPPING, AutoConfig

        from kdpipe.load import new_transformer

        model_type, keys = self._read()
        if model_type not in CONFIG_MAPPING:
            hint = nearest(model_type, sorted(CONFIG_MAPPING.keys())).partition(" allowed")[0]
            raise UsageError(f"model_type {model_type!r} is not known to transformers; {hint}")
        config = AutoConfig.for_model(model_type, vocab_size=_vocabulary(teacher, tokenizer))
        known = {*config.to_dict(), *config.attribute_map} - _NOT_SHAPE
        config = with_keys(config, {key: keys[key] for key in keys if key in known})
        config = with_keys(config, _special(config, tokenizer))
        return new_transformer(with_keys(config, self.__pydantic_extra__ or {}))

    def _read(self) -> tuple[str, dict[str, Any]]:
        """The model type, and what the file says; raises ArtifactError where it says no type."""
        from kdpipe.hub import read_json

        if self.config_file is None:
            return self.model_type, {}
        found = read_json(Path(self.config_file))
        stated = self.model_type if "model_type" in self.model_fields_set else None
        model_type = stated or found.get("model_type")
        if not isinstance(model_type, str):
            raise ArtifactError(
                f"{self.config_file} names no model type: set model_type beside config_file"
            )
        return model_type, found


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
    from huggingface_hub.errors import StrictDataclassError

    known = [*config.to_dict(), *config.attribute_map]
    for key in keys:
        if key not in known:
            hint = nearest(key, known).partition(" allowed")[0]
            raise UsageError(f"a {config.model_type!r} model has no config key {key!r}; {hint}")
    try:
        for key, value in keys.items():
            setattr(config, key, value)
        return type(config).from_dict(config.to_dict())
    except StrictDataclassError as error:
        reason = str(error).splitlines()[-1].strip()
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
    raise UsageError(f"config of the student: {reason}")
