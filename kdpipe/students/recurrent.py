"""A student that is no transformer: a BiLSTM or BiGRU over the tokens of the corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from kdpipe.students.base import StudentKind
from kdpipe.students.token_table import Embeddings, begin

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kdpipe.encoder import Encoder
    from kdpipe.tokenizer import Tokenizer


class RecurrentStudent(StudentKind):
    """A table of tokens and layers of LSTM or GRU, each in both directions."""

    kind: Literal["recurrent"]
    cell: Literal["lstm", "gru"] = "lstm"
    num_layers: PositiveInt = 1
    hidden_size: PositiveInt = 128
    """Of each direction; a state has twice as many numbers."""
    word_width: PositiveInt = 128
    """Numbers for a token in the table."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Before, between and behind the layers."""
    embeddings: Embeddings = "fresh"
    """How the table begins. `teacher`: that of the teacher's tokens, on its leading singular
    vectors where `word_width` is less."""

    def build(self, teacher: Encoder | None, tokenizer: Tokenizer) -> PreTrainedModel:
        """The net; raises UsageError where the teacher's table cannot be had."""
        from kdpipe.load import new_transformer
        from kdpipe.nets.configs import RecurrentConfig

        model = new_transformer(
            RecurrentConfig(
                vocab_size=tokenizer.vocabulary,
                word_width=self.word_width,
                hidden_size=2 * self.hidden_size,
                num_hidden_layers=self.num_layers,
                cell=self.cell,
                dropout=self.dropout,
                pad_token_id=tokenizer.pad_id if "pad_token" in tokenizer.special else None,
            )
        )
        if self.embeddings == "teacher":
            begin(model, teacher, "word_width")
        return model
