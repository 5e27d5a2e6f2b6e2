"""What a masked language model would put in the place of a word.

As in TinyBERT's augmentation the model reads a pair: the text with one token masked, then the text
as it is. All words of a text go through it together, so no pass has padding, and what is proposed
for a text does not depend on the texts around it.

Legend: B words, T tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForMaskedLM

from kdpipe.augment.side import WORD, Span
from kdpipe.errors import ArtifactError, NonFiniteError
from kdpipe.modules import position_limit, transformer_folder
from kdpipe.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedModel

LOGITS = 1 << 26
"""In one pass at most, but for a text that has more by itself: 256 MiB."""


@dataclass(frozen=True, eq=False)
class MaskedModel:
    """A masked language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    positions: int
    """Tokens that it can read."""
    typed: bool
    """Whether it tells the two texts of a pair apart by token types."""

    def candidates(self, text: str, places: Sequence[Span], count: int) -> dict[Span, list[str]]:
        """For those of the `places` that the model reads as one token: what else could stand there.

        That is the whole words (letters alone) among the `count` most likely tokens, the likeliest
        first; the word itself may be one of them. Raises NonFiniteError where the model has no
        answer.
        """
        (said,) = self.tokenizer.encodings([(text, text)])
        single = _tokens(said, text, self.positions)
        known = [span for span in places if span in single]
        likeliest = self._likeliest(said, [single[span] for span in known], count)
        found = {}
        for span, ids in zip(known, likeliest, strict=True):
            before = text[span[0] - 1 : span[0]] if span[0] else ""
            words = (self._word(token, before) for token in ids)
            found[span] = [word for word in words if word is not None]
        return found

    def _likeliest(self, said: Encoding, masked: list[int], count: int) -> list[list[int]]:
        """For each place in `masked` the ids of the likeliest tokens where only it is masked."""
        ids = torch.tensor(said.ids[: self.positions])
        types = torch.tensor(said.type_ids[: self.positions])
        limit = max(1, LOGITS // (self.model.config.vocab_size * max(1, len(ids))))
        found: list[list[int]] = []
        for start in range(0, len(masked), limit):
            places = torch.tensor(masked[start : start + limit])
            batch = ids.repeat(len(places), 1)
            batch[torch.arange(len(places)), places] = self._mask
            found += self._top(batch, types.expand_as(batch), places, count).tolist()
        return found

    @torch.inference_mode()
    def _top(self, batch: Tensor, types: Tensor, places: Tensor, count: int) -> Tensor:
        """[B, count] ids of the likeliest tokens at `places [B]` of `batch [B, T]`."""
        device = self.model.device
        inputs: dict[str, Any] = {"input_ids": batch.to(device)}
        if self.typed:
            inputs["token_type_ids"] = types.to(device)
        logits: Tensor = self.model(**inputs).logits  # [B, T, V]
        there = logits[torch.arange(len(places)), places]
        if not bool(there.isfinite().all()):
            raise NonFiniteError(
                "the masked language model gives NaN or Inf instead of words: use another one"
            )
        return there.topk(min(count, there.shape[1])).indices

    @property
    def _mask(self) -> int:
        return int(self.tokenizer.backend.token_to_id(self.tokenizer.special["mask_token"]))

    @functools.cache  # noqa: B019 - the model lives as long as its process
    def _word(self, token: int, before: str) -> str | None:
        """The word that a token is behind the character `before`; None for a piece or a mark."""
        (word,) = self.tokenizer.spell([token])
        if not WORD.fullmatch(word):
            return None
        (again,) = self.tokenizer.encodings([before + word], bare=True)
        place = _tokens(again, before + word, None).get((len(before), len(before + word)))
        if place is None or again.ids[place] != token:
            return None
        # Where words begin with their blank, a blank of its own shows that this was only a piece.
        return word if before.strip() or len(again.ids) == 1 else None


def load_masked_model(folder: Path, device: torch.device) -> MaskedModel:
    """The masked language model in a model folder, in fp32.

    Raises:
        ArtifactError: not a masked language model, or damaged files.
    """
    transformer = transformer_folder(folder)
    tokenizer = load_tokenizer(transformer)
    if "mask_token" not in tokenizer.special:
        raise ArtifactError(f"{folder}: its tokenizer has no mask token: use a model such as BERT")
    try:
        model, loading = AutoModelForMaskedLM.from_pretrained(
            transformer,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArtifactError(f"{folder}: the model cannot be loaded ({reason})") from None
    missing = sorted(key for key in loading["missing_keys"] if ".pooler." not in f".{key}")
    if missing:
        raise ArtifactError(
            f"{folder}: its weights lack {missing[0]}, so it is no masked language model: use one"
            " that was saved with its head, such as a pretrained BERT"
        )
    typed = "token_type_ids" in inspect.signature(model.forward).parameters
    typed &= getattr(model.config, "type_vocab_size", 1) > 1
    return MaskedModel(model.eval().to(device), tokenizer, position_limit(folder), typed)


def _tokens(said: Encoding, text: str, limit: int | None) -> dict[Span, int]:
    """The first tokens of the first text by what they stand for in it, blanks left out."""
    found = {}
    owners = said.sequence_ids[:limit]
    for token, (owner, (start, end)) in enumerate(zip(owners, said.offsets[:limit], strict=True)):
        piece = text[start:end]
        if owner == 0:
            first = start + len(piece) - len(piece.lstrip())
            found[first, first + len(piece.strip())] = token
    return found
