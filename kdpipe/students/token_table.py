"""The table of tokens that a small net begins with: its own, or the teacher's.

Legend: V tokens of the vocabulary, D width of the teacher's table, W that of the student's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdpipe.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from kdpipe.encoder import Encoder

Embeddings = Literal["fresh", "teacher"]


def begin(model: PreTrainedModel, teacher: Encoder | None, key: str) -> None:
    """Put the teacher's table into a net, on its leading singular vectors where W is less than D.

    Raises:
        UsageError: no such teacher, or it has fewer numbers a token than `key` asks for.
    """
    import torch

    words = model.get_input_embeddings()
    assert isinstance(words, torch.nn.Embedding)
    with torch.no_grad():
        words.weight.copy_(_table(teacher, words.embedding_dim, key)[: words.num_embeddings])
        if words.padding_idx is not None:
            words.weight[words.padding_idx].zero_()


def _table(teacher: Encoder | None, width: int, key: str) -> Tensor:
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
    if width > table.shape[1]:
        raise UsageError(
            f"{key} {width} is more than the teacher's {table.shape[1]}: use embeddings: fresh"
        )
    table = table - table.mean(0)
    if width < table.shape[1]:
        basis = torch.linalg.eigh(table.T @ table).eigenvectors.flip(1)[:, :width]
        # Singular vectors have no sign of their own.
        table = table @ (basis * torch.where(basis.sum(0) < 0, -1.0, 1.0))
    return (table / table.std()).float()
