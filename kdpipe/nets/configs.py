"""The small nets as transformers knows models: one config for each, with the sizes of the net.

`hidden_size` is the width of a state, as everywhere in transformers: of a bidirectional layer both
directions together, so half of it is what `kdpipe.nets` calls so.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from kdpipe.nets.attention import Attention
from kdpipe.nets.cnn_lstm import CNNLSTM
from kdpipe.nets.id_cnn import IDCNN
from kdpipe.nets.recurrent import Cell, Recurrent
from kdpipe.nets.words import PADDING

ANY_LENGTH = 1 << 20
"""No net has positions: rows may be as long as memory allows."""


class RecurrentConfig(PreTrainedConfig):
    """Of a BiLSTM or BiGRU over the tokens of any tokenizer."""

    model_type = "kdpipe-recurrent"
    num_attention_heads = 1

    def __init__(
        self,
        vocab_size: int = 30522,
        word_width: int = 128,
        hidden_size: int = 256,
        num_hidden_layers: int = 1,
        cell: Cell = "lstm",
        dropout: float = 0.0,
        pad_token_id: int | None = PADDING,
        max_position_embeddings: int = ANY_LENGTH,
        **keys: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.word_width = word_width
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.cell = cell
        self.dropout = dropout
        self.pad_token_id = pad_token_id
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**keys)

    @property
    def input_width(self) -> int:
        """Numbers for a token that the first layer reads."""
        return self.word_width

    def net(self) -> Recurrent:
        """The net with fresh weights."""
        return Recurrent(
            self.vocab_size,
            **_shared(self, Recurrent)
            | {
                "hidden_size": self.hidden_size // 2,
                "num_layers": self.num_hidden_layers,
                "padding": self.pad_token_id,
            },
        )


class AttentionConfig(PreTrainedConfig):
    """Of layers of attention alone over the tokens of any tokenizer."""

    model_type = "kdpipe-attention"

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 128,
        num_hidden_layers: int = 1,
        num_attention_heads: int = 4,
        head_size: int = 128,
        dropout: float = 0.0,
        pad_token_id: int | None = PADDING,
        max_position_embeddings: int = ANY_LENGTH,
        **keys: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.head_size = head_size
        self.dropout = dropout
        self.pad_token_id = pad_token_id
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**keys)

    def net(self) -> Attention:
        """The net with fresh weights."""
        others = {"num_layers": self.num_hidden_layers, "padding": self.pad_token_id}
        return Attention(self.vocab_size, **_shared(self, Attention) | others)


class CNNLSTMConfig(PreTrainedConfig):
    """Of a CNN-LSTM, which reads words and their characters."""

    model_type = "kdpipe-cnn-lstm"
    num_attention_heads = 1

    def __init__(
        self,
        vocab_size: int = 30522,
        word_width: int = 100,
        character_width: int = 16,
        character_filters: int = 128,
        character_kernel_size: int = 3,
        hidden_size: int = 200,
        num_hidden_layers: int = 2,
        dropout: float = 0.5,
        word_dropout: float = 0.0,
        pad_token_id: int = PADDING,
        max_position_embeddings: int = ANY_LENGTH,
        **keys: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.word_width = word_width
        self.character_width = character_width
        self.character_filters = character_filters
        self.character_kernel_size = character_kernel_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.dropout = dropout
        self.word_dropout = word_dropout
        self.pad_token_id = pad_token_id
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**keys)

    @property
    def input_width(self) -> int:
        """Numbers for a word that the first layer reads."""
        return self.word_width + self.character_filters

    def net(self) -> CNNLSTM:
        """The net with fresh weights."""
        halved = {"hidden_size": self.hidden_size // 2, "num_layers": self.num_hidden_layers}
        return CNNLSTM(self.vocab_size, **_shared(self, CNNLSTM) | halved)


class IDCNNConfig(PreTrainedConfig):
    """Of an ID-CNN, which reads words and their shapes, and their characters if it should.

    `num_hidden_layers` counts its convolutions; it follows from `dilations` and `blocks`.
    """

    model_type = "kdpipe-id-cnn"
    num_attention_heads = 1

    def __init__(
        self,
        vocab_size: int = 30522,
        word_width: int = 100,
        shape_width: int = 5,
        use_characters: bool = False,
        character_width: int = 16,
        character_filters: int = 128,
        character_kernel_size: int = 3,
        hidden_size: int = 128,
        kernel_size: int = 3,
        dilations: Sequence[int] = (1, 2, 1),
        blocks: int = 1,
        input_dropout: float = 0.35,
        middle_dropout: float = 0.0,
        hidden_dropout: float = 0.15,
        word_dropout: float = 0.0,
        pad_token_id: int = PADDING,
        max_position_embeddings: int = ANY_LENGTH,
        **keys: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.word_width = word_width
        self.shape_width = shape_width
        self.use_characters = use_characters
        self.character_width = character_width
        self.character_filters = character_filters
        self.character_kernel_size = character_kernel_size
        self.hidden_size = hidden_size
        self.kernel_size = kernel_size
        self.dilations = [*dilations]
        self.blocks = blocks
        self.input_dropout = input_dropout
        self.middle_dropout = middle_dropout
        self.hidden_dropout = hidden_dropout
        self.word_dropout = word_dropout
        self.pad_token_id = pad_token_id
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**keys)

    @property
    def num_hidden_layers(self) -> int:
        """How many convolutions a word goes through."""
        return 1 + self.blocks * len(self.dilations)

    @property
    def input_width(self) -> int:
        """Numbers for a word that the first convolution reads."""
        characters = self.character_filters if self.use_characters else 0
        return self.word_width + self.shape_width + characters

    def net(self) -> IDCNN:
        """The net with fresh weights."""
        return IDCNN(self.vocab_size, filters=self.hidden_size, **_shared(self, IDCNN))


def _shared(config: PreTrainedConfig, net: type[nn.Module]) -> dict[str, Any]:
    """What a config and a net call by the same name."""
    names = inspect.signature(net).parameters
    return {name: value for name, value in vars(config).items() if name in names}
