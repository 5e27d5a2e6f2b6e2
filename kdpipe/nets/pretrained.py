"""The small nets as models of transformers; importing this module makes its auto classes know them.

They are made, saved and loaded like any other model there. Legend: B rows, T words of the longest
row, C characters of a word, D width of a state, L classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import (
    BaseModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from kdpipe.nets.configs import AttentionConfig, CNNLSTMConfig, IDCNNConfig, RecurrentConfig
from kdpipe.nets.words import Words


class _Model(PreTrainedModel):
    base_model_prefix = "encoder"

    def _init_weights(self, module: nn.Module) -> None:
        """Fresh weights are those of torch, as the nets have them by themselves."""
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()


class _Net(_Model):
    """A net without a head."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.net = config.net()
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The table of the words."""
        words: nn.Module = self.net.words
        return words

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        characters: Tensor | None = None,
        shapes: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """States of the words, 0 at padded places.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 0 at padding, which is at the right; None: there is none.
            characters: [B, T, C] as `kdpipe.nets.features` has them, for nets that read them.
            shapes: [B, T] as there, for nets that read them.
            output_hidden_states: Also give `hidden_states`: what the first layer reads, whose width
                is its own, then the states [B, T, D] of each layer.
            return_dict: There is always one; other models of transformers know this argument.
        """
        mask = _mask(input_ids, attention_mask)
        every = self.net.every(Words(input_ids, mask, characters, shapes))
        asked = output_hidden_states
        if self.config.output_hidden_states if asked is None else asked:
            return BaseModelOutput(last_hidden_state=every[-1], hidden_states=tuple(every))
        return BaseModelOutput(last_hidden_state=every[-1])


class _Headed(_Model, ABC):
    """A net with a linear layer that gives logits."""

    below: ClassVar[type[_Net]]
    output: ClassVar[Any]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.encoder = self.below(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        characters: Tensor | None = None,
        shapes: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """`logits`, [B, L] of rows or [B, T, L] of words; arguments are those of the net."""
        said = self.encoder(input_ids, attention_mask, characters, shapes, output_hidden_states)
        about = self.about(said.last_hidden_state, _mask(input_ids, attention_mask))
        return self.output(logits=self.classifier(about), hidden_states=said.hidden_states)

    @abstractmethod
    def about(self, states: Tensor, mask: Tensor) -> Tensor:
        """What the logits are about, from `states [B, T, D]` that are 0 where `mask [B, T]` is."""


class _OfRows(_Headed):
    output = SequenceClassifierOutput

    def about(self, states: Tensor, mask: Tensor) -> Tensor:
        """[B, D]: the mean of the words; on SST-2 as good as their maximum, better than the ends.

        The ends, of each direction the state that has seen all, are what the Keras students take.
        """
        return states.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


class _OfWords(_Headed):
    output = TokenClassifierOutput

    def about(self, states: Tensor, mask: Tensor) -> Tensor:
        """[B, T, D]: every word."""
        return states


class RecurrentModel(_Net):
    """A BiLSTM or BiGRU."""

    config_class = RecurrentConfig


class RecurrentForSequenceClassification(_OfRows):
    """A BiLSTM or BiGRU that says something about a row."""

    config_class, below = RecurrentConfig, RecurrentModel


class RecurrentForTokenClassification(_OfWords):
    """A BiLSTM or BiGRU that says something about each token."""

    config_class, below = RecurrentConfig, RecurrentModel


class AttentionModel(_Net):
    """Layers of attention alone."""

    config_class = AttentionConfig


class AttentionForSequenceClassification(_OfRows):
    """Layers of attention alone that say something about a row."""

    config_class, below = AttentionConfig, AttentionModel


class AttentionForTokenClassification(_OfWords):
    """Layers of attention alone that say something about each token."""

    config_class, below = AttentionConfig, AttentionModel


class CNNLSTMModel(_Net):
    """A CNN-LSTM."""

    config_class = CNNLSTMConfig


class CNNLSTMForSequenceClassification(_OfRows):
    """A CNN-LSTM that says something about a row."""

    config_class, below = CNNLSTMConfig, CNNLSTMModel


class CNNLSTMForTokenClassification(_OfWords):
    """A CNN-LSTM that says something about each word."""

    config_class, below = CNNLSTMConfig, CNNLSTMModel


class IDCNNModel(_Net):
    """An ID-CNN."""

    config_class = IDCNNConfig


class IDCNNForSequenceClassification(_OfRows):
    """An ID-CNN that says something about a row."""

    config_class, below = IDCNNConfig, IDCNNModel


class IDCNNForTokenClassification(_OfWords):
    """An ID-CNN that says something about each word."""

    config_class, below = IDCNNConfig, IDCNNModel


def _mask(ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """[B, T] bool."""
    given = torch.ones_like(ids) if attention_mask is None else attention_mask
    return given.bool()


_CONFIGS = (RecurrentConfig, AttentionConfig, CNNLSTMConfig, IDCNNConfig)
MODEL_TYPES = tuple(config.model_type for config in _CONFIGS)
"""What is known from now on."""
for _config in _CONFIGS:
    AutoConfig.register(_config.model_type, _config)
for _auto, _models in {
    AutoModel: (RecurrentModel, AttentionModel, CNNLSTMModel, IDCNNModel),
    AutoModelForSequenceClassification: (
        RecurrentForSequenceClassification,
        AttentionForSequenceClassification,
        CNNLSTMForSequenceClassification,
        IDCNNForSequenceClassification,
    ),
    AutoModelForTokenClassification: (
        RecurrentForTokenClassification,
        AttentionForTokenClassification,
        CNNLSTMForTokenClassification,
        IDCNNForTokenClassification,
    ),
}.items():
    for _model in _models:
        _auto.register(_model.config_class, _model)
