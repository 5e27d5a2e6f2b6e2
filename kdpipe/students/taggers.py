"""Students that read words and how they are written: CNN-LSTM and ID-CNN, as in NLP Architect."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from kdpipe.errors import UsageError
from kdpipe.progress import counted
from kdpipe.students.base import StudentKind, digest_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from kdpipe.encoder import Encoder
    from kdpipe.tokenizer import Tokenizer

Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]


class _OfWords(StudentKind):
    """What the two have in common; a tokenizer of words reads the corpus."""

    word_width: PositiveInt = 100
    """Numbers for a word in the table of the words."""
    vectors: str | None = None
    """A text file of word vectors, as GloVe and fastText publish them, with which the table begins;
    None: all of it is fresh."""
    character_width: PositiveInt = 16
    """Numbers for a character."""
    character_filters: PositiveInt = 128
    """Numbers for all characters of a word."""
    character_kernel_size: PositiveInt = 3
    """Characters that a filter sees at a time."""
    word_dropout: Dropout = 0.0
    """Share of words that are unknown ones in training, but for how they are written."""

    @abstractmethod
    def config(self, vocabulary: int) -> PreTrainedConfig:
        """Of the net for so many words."""

    def files(self) -> list[str]:
        """The word vectors."""
        return [] if self.vectors is None else [self.vectors]

    def inputs(self, root: Path) -> dict[str, str]:
        """The digest of the word vectors; raises ArtifactError where they are not there."""
        if self.vectors is None:
            return {}
        return {"vectors": digest_of(self.vectors, "vectors", root)}

    def build(self, teacher: Encoder | None, tokenizer: Tokenizer) -> PreTrainedModel:
        """The net; raises UsageError for tokens that are no words, or vectors of another width."""
        import torch

        from kdpipe.load import new_transformer

        if not tokenizer.by_words:
            raise UsageError(
                f"a student of kind {self.kind!r} reads whole words: give its corpus tokenizer:"
                " {kind: words}"
            )
        model = new_transformer(self.config(tokenizer.vocabulary))
        words = model.get_input_embeddings()
        assert isinstance(words, torch.nn.Embedding)
        with torch.no_grad():
            if self.vectors is not None:
                self._start(words, tokenizer, Path(self.vectors))
            # Training may have no unknown word: then it should say as little as it can.
            unknown = tokenizer.backend.token_to_id(tokenizer.special["unk_token"])
            words.weight[unknown] = words.weight[len(tokenizer.special) :].mean(0)
        return model

    def _start(self, words: nn.Embedding, tokenizer: Tokenizer, path: Path) -> None:
        """Put the vectors into the table; words without one keep theirs, made as long."""
        import torch

        from kdpipe.nets.vectors import read_vectors

        ids = tokenizer.backend.get_vocab(with_added_tokens=True)
        ordered = sorted(ids, key=lambda word: ids[word])
        values, found = read_vectors(path, ordered)
        if values.shape[1] != self.word_width:
            raise UsageError(
                f"{path} has vectors of {counted(values.shape[1], 'number')}: set word_width to"
                " that"
            )
        if not found.any():
            raise UsageError(f"{path} has a vector for none of the {len(ordered)} words")
        given, there = torch.from_numpy(values), torch.from_numpy(found)
        words.weight *= given[there].std()
        words.weight[there] = given[there]


class CNNLSTMStudent(_OfWords):
    """Words and their characters, read by a BiLSTM."""

    kind: Literal["cnn_lstm"]
    hidden_size: PositiveInt = 100
    """Of each direction; a state has twice as many numbers."""
    num_layers: PositiveInt = 2
    dropout: Dropout = 0.5
    """Before and behind the LSTM."""

    def config(self, vocabulary: int) -> PreTrainedConfig:
        """Of the net for so many words."""
        from kdpipe.nets.configs import CNNLSTMConfig

        return CNNLSTMConfig(
            vocab_size=vocabulary,
            word_width=self.word_width,
            character_width=self.character_width,
            character_filters=self.character_filters,
            character_kernel_size=self.character_kernel_size,
            hidden_size=2 * self.hidden_size,
            num_hidden_layers=self.num_layers,
            dropout=self.dropout,
            word_dropout=self.word_dropout,
        )


class IDCNNStudent(_OfWords):
    """Words and the shape of their capitals, read by dilated convolutions."""

    kind: Literal["id_cnn"]
    shape_width: PositiveInt = 5
    """Numbers for a shape."""
    use_characters: bool = False
    """Whether it also reads characters."""
    filters: PositiveInt = 128
    """Numbers of a state."""
    kernel_size: PositiveInt = 3
    """Words that a convolution sees at a time."""
    dilations: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 1)
    """How far these words are apart, for each convolution of a block."""
    blocks: PositiveInt = 1
    """How often the convolutions are run through, with the same weights."""
    input_dropout: Dropout = 0.35
    middle_dropout: Dropout = 0.0
    """Between blocks."""
    hidden_dropout: Dropout = 0.15
    """Behind the last block."""

    def config(self, vocabulary: int) -> PreTrainedConfig:
        """Of the net for so many words."""
        from kdpipe.nets.configs import IDCNNConfig

        return IDCNNConfig(
            vocab_size=vocabulary,
            word_width=self.word_width,
            shape_width=self.shape_width,
            use_characters=self.use_characters,
            character_width=self.character_width,
            character_filters=self.character_filters,
            character_kernel_size=self.character_kernel_size,
            hidden_size=self.filters,
            kernel_size=self.kernel_size,
            dilations=self.dilations,
            blocks=self.blocks,
            input_dropout=self.input_dropout,
            middle_dropout=self.middle_dropout,
            hidden_dropout=self.hidden_dropout,
            word_dropout=self.word_dropout,
        )
