"""A student of attention alone, without feed-forward layers, over the tokens of the corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from kdpipe.students.base import StudentKind
from kdpipe.students.token_table import Embeddings, begin

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kdpipe.encoder import Encoder
    from kdpipe.tokenizer import Tokenizer


class AttentionStudent(StudentKind):
    """A table of tokens, their places, and layers of attention."""

    kind: Literal["attention"]
    num_layers: PositiveInt = 1
    hidden_size: PositiveInt = 128
    """Numbers of a state, and of a token in the table."""
    num_attention_heads: PositiveInt = 4
    head_size: PositiveInt = 128
    """Numbers of a query, a key and a value of each head."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Of the table, of what a layer adds, and of the weights of attention."""
    embeddings: Embeddings = "fresh"
    """How the table begins. `teacher`: that of the teacher's tokens, on its leading singular
    vectors where `hidden_size` is less."""

    def build(self, teacher: Encoder | None, tokenizer: Tokenizer) -> PreTrainedModel:
        """The net; raises UsageError where the teacher's table cannot be had."""
        from kdpipe.load import new_transformer
        from kdpipe.nets.configs import AttentionConfig

        model = new_transformer(
            AttentionConfig(
                vocab_size=tokenizer.vocabulary,
                hidden_size=self.hidden_size,
                num_hidden_layers=self.num_layers,
                num_attention_heads=self.num_attention_heads,
                head_size=self.head_size,
                dropout=self.dropout,
                pad_token_id=tokenizer.pad_id if "pad_token" in tokenizer.special else None,
            )
        )
        if self.embeddings == "teacher":
            begin(model, teacher, "hidden_size")
        return model
