"""A student that is no transformer: a BiLSTM or BiGRU over the tokens of the corpus.

Legend: V tokens of the vocabulary, D width of the teacher's table of tokens, W that of the
student's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from kdpipe.errors import UsageError
from kdpipe.students.base import StudentKind

if TYPE_CHECKING:
    from torch import Tensor
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
    embeddings: Literal["fresh", "teacher"] = "fresh"
    """How the table begins. `teacher`: that of the teacher's tokens, on its leading singular
    vectors where `word_width` is less."""

    def build(self, teacher: Encoder | None, tokenizer: Tokenizer) -> PreTrainedModel:
        """The net; raises UsageError where the teacher's table cannot be had."""
        import torch

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
            words = model.get_input_embeddings()
            assert isinstance(words, torch.nn.Embedding)
            with torch.no_grad():
                words.weight.copy_(self._table(teacher)[: tokenizer.vocabulary])
                if words.padding_idx is not None:
                    words.weight[words.padding_idx].zero_()
        return model

    def _table(self, teacher: Encoder | None) -> Tensor:
        """[V, W]: the teacher's, centred, with the variance of a fresh table.

        Its own scale is for the normalisation that a transformer has behind it.
        """
        import torch

        if teacher is None:
            raise UsageError(
                "embeddings: teacher needs a teacher that reads the tokens of the corpus: use"
                " embeddings: fresh"
            )
        words = teacher.base.get_input_embeddings()
        assert isinstance(words, torch.nn.Embedding)
        table = words.weight.detach().double()
        if self.word_width > table.shape[1]:
            raise UsageError(
                f"word_width {self.word_width} is more than the teacher's {table.shape[1]}: use"
                " embeddings: fresh"
            )
        table = table - table.mean(0)
        if self.word_width < table.shape[1]:
            basis = torch.linalg.eigh(table.T @ table).eigenvectors.flip(1)[:, : self.word_width]
            # Singular vectors have no sign of their own.
            table = table @ (basis * torch.where(basis.sum(0) < 0, -1.0, 1.0))
        return (table / table.std()).float()
