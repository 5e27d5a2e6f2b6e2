"""The tokenizer that really runs: one backend, without truncation and padding of its own.

Some `tokenizer.json` files truncate and pad by themselves (all-MiniLM's to 128 tokens). Here both
are switched off and the limit is the caller's. The fingerprint covers what the backend does, not
its name.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdpipe import io, supervised
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.hub import read_json
from kdpipe.long_pairs import cut_pair, long_pairs
from kdpipe.nets.features import spelling_array
from kdpipe.tokenizer_file import try_out

Text = str | tuple[str, str]
WORD_LEVEL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]"}
"""Special tokens of a tokenizer whose tokens are words, with the ids 0, 1 and 2; nothing puts them
into a row by itself."""
_MOST_SPECIAL = 1000
"""In a row; known tokenizers add up to four."""
_SPECIAL = ("pad", "unk", "cls", "sep", "bos", "eos", "mask")


@dataclass(frozen=True)
class Encoded:
    """Rows of token ids, flat."""

    ids: npt.NDArray[np.int64]
    """[N]."""
    lengths: npt.NDArray[np.int64]
    """[B]."""
    second_at: npt.NDArray[np.int64] | None
    """[B]: where token type 1 begins, the second text of a pair; None without pairs."""
    word_of: npt.NDArray[np.int64] | None = None
    """[N]: which word of its row a token is of, -1 for special tokens and those of a prompt; None
    where rows are not given as words. A word may have no token: nothing of it is left by the
    tokenizer's own rules, or its row was cut before it."""
    original: npt.NDArray[np.int64] | None = None
    """[N]: the id that stood at a place which is hidden from models, -100 at all others; None where
    no place is hidden."""
    spelling: npt.NDArray[np.uint8] | None = None
    """[N, 1 + C]: how the word is written that a token is of, as `kdpipe.nets.features` has it; 0
    for a token of no word; None where tokens are parts of words."""

    def part(self, first: int, last: int) -> Encoded:
        """The rows from `first` to before `last`."""
        begin = int(self.lengths[:first].sum())
        end = begin + int(self.lengths[first:last].sum())
        rows, tokens = slice(first, last), slice(begin, end)
        return Encoded(
            self.ids[tokens],
            self.lengths[rows],
            None if self.second_at is None else self.second_at[rows],
            None if self.word_of is None else self.word_of[tokens],
            None if self.original is None else self.original[tokens],
            None if self.spelling is None else self.spelling[tokens],
        )


@dataclass(frozen=True)
class Tokenizer:
    """A fast tokenizer and the facts that models and folders need about it."""

    backend: Any
    """`tokenizers.Tokenizer`, without truncation and padding."""
    special: dict[str, str]
    """`cls_token` -> `[CLS]`, ...: the special tokens that it has."""
    input_names: tuple[str, ...]
    """What its models read: `input_ids`, `attention_mask`, often `token_type_ids`."""
    name: str = "the tokenizer"
    """In messages."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of what it does."""
        return io.identity({"backend": json.loads(self.backend.to_str()), "special": self.special})

    @functools.cached_property
    def vocabulary(self) -> int:
        """Number of token ids, those that no token has among them."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @functools.cached_property
    def by_words(self) -> bool:
        """Whether its tokens are whole words."""
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import BertPreTokenizer, WhitespaceSplit

        split = isinstance(self.backend.pre_tokenizer, BertPreTokenizer | WhitespaceSplit)
        return split and isinstance(self.backend.model, WordLevel) and self.special == WORD_LEVEL

    def words_of(self, text: str) -> tuple[str, ...]:
        """A text cut into words, where its tokens are words."""
        assert self.by_words
        return tuple(word for word, _ in self.backend.pre_tokenizer.pre_tokenize_str(text))

    @property
    def pad_id(self) -> int:
        """Id that fills up rows; 0 where the tokenizer has no padding token."""
        token = self.special.get("pad_token")
        return 0 if token is None else int(self.backend.token_to_id(token))

    def encode(self, texts: Sequence[Text], max_seq_length: int) -> Encoded:
        """Tokens of texts or of pairs, special tokens included, cut to `max_seq_length`.

        Raises:
            UsageError: special tokens alone take more.
            ArtifactError: the tokenizer refuses a text, gives up, or makes longer rows.
        """
        # By type: that is the fastest look at thousands of texts.
        single = {*map(type, texts)} <= {str}
        long = [] if single else long_pairs(texts, max_seq_length)
        rows = self._encode(self.backend.encode_batch_fast, texts, max_seq_length, long)
        ids, lengths = self._flat(rows, max_seq_length)
        return Encoded(ids, lengths, None if single else second_at(rows))

    def encode_words(
        self, rows: Sequence[Sequence[str]], max_seq_length: int, prompt: str = ""
    ) -> Encoded:
        """Tokens of rows of words, with the word of each token, cut to `max_seq_length`.

        A row is read as one text, its words joined by blanks, because to many tokenizers a word
        after a blank is another one than a word alone. A token that covers several words is of the
        first one. Raises as `encode`.
        """
        texts = [f"{prompt}{' '.join(words)}" for words in rows]
        # Only the slower of the two calls tells which characters a token covers.
        encodings = self._encode(self.backend.encode_batch, texts, max_seq_length)
        # The blank that ends a prompt is part of the first word to some tokenizers.
        start = len(prompt.rstrip())
        found = [
            _word_of(encoding, words, len(prompt), start)
            for encoding, words in zip(encodings, rows, strict=True)
        ]
        word_of = np.concatenate(found or [np.empty(0, np.int64)])
        encoded = Encoded(*self._flat(encodings, max_seq_length), None, word_of)
        return replace(encoded, spelling=_spelling(rows, encoded)) if self.by_words else encoded

    def _encode(
        self, call: Any, texts: Sequence[Text], max_seq_length: int, long: Sequence[int] = ()
    ) -> list[Any]:
        """Rows cut by the backend, but for those at the places `long`, which are cut here."""
        self._leave_room(texts, max_seq_length)
        short = [*texts]
        for place in long:
            short[place] = ("", "")
        self.backend.enable_truncation(max_seq_length)
        try:
            with supervised.reading(self.name, texts):
                rows = list(call(short))
        finally:
            self.backend.no_truncation()
        if long:
            with supervised.reading(self.name, texts):
                whole = call([texts[place] for place in long])
            for place, row in zip(long, whole, strict=True):
                rows[place] = cut_pair(row, max_seq_length)
        return rows

    def _leave_room(self, texts: Sequence[Text], limit: int) -> None:
        added = [self.backend.num_special_tokens_to_add(pair) for pair in (False, True)]
        if max(added) <= limit:
            return
        most = max((added[not isinstance(text, str)] for text in texts), default=0)
        if most > limit:
            raise UsageError(
                f"max_seq_length is {limit:,}, and {self.name} adds {most:,} special tokens to a"
                " row: raise it, or use another model"
            )

    def _flat(
        self, rows: Sequence[Any], limit: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        ids, lengths = flat(rows)
        longest = int(lengths.max(initial=0))
        if longest > limit:
            raise ArtifactError(
                f"{self.name} makes rows of {longest:,} tokens, where {limit:,} are asked for: use"
                " another model"
            )
        return ids, lengths

    def encodings(self, texts: Sequence[Text], *, bare: bool = False) -> list[Any]:
        """The backend's own of whole texts or pairs, as `bare` ones without special tokens.

        Raises:
            ArtifactError: it refuses a text, or gives up.
        """
        with supervised.reading(self.name, texts):
            return list(self.backend.encode_batch(list(texts), add_special_tokens=not bare))

    def spell(self, ids: Sequence[int], *, special: bool = False) -> list[str]:
        """What each token is by itself, without blanks around it; of special ones if `special`."""
        single = [[one] for one in ids]
        with supervised.reading(self.name, ()):
            texts = self.backend.decode_batch(single, skip_special_tokens=not special)
        return [text.strip() for text in texts]

    def count(self, prompt: str) -> int:
        """Tokens that a prompt takes at the head of a row, leading special tokens included."""
        if not prompt.strip():
            return 0
        (row,) = self.encodings([prompt])
        mask = row.special_tokens_mask[::-1]
        return len(mask) - mask.index(0) if 0 in mask else 0


def joined(parts: Sequence[Encoded]) -> Encoded:
    """All rows, one part after the other; the parts are of one kind."""
    columns = {one.name: [getattr(part, one.name) for part in parts] for one in fields(Encoded)}
    whole: dict[str, Any] = {
        name: None if column[0] is None else np.concatenate(column)
        for name, column in columns.items()
    }
    return Encoded(**whole)


def flat(rows: Sequence[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ids [N] of the backend's encodings one after the other, and their lengths [B]."""
    # The backend makes a new list each time it is asked for the ids of a row.
    ids = [row.ids for row in rows]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    every = itertools.chain.from_iterable(ids)
    return np.fromiter(every, np.int64, int(lengths.sum())), lengths


def second_at(rows: Sequence[Any]) -> npt.NDArray[np.int64]:
    """[B]: where token type 1 begins in the backend's encodings of pairs."""
    # A family that gives both texts of a pair the same type has none of type 1.
    types = (row.type_ids for row in rows)
    firsts = (found.index(1) if 1 in found else len(found) for found in types)
    return np.fromiter(firsts, np.int64, len(rows))


def _word_of(encoding: Any, words: Sequence[str], first: int, start: int) -> npt.NDArray[np.int64]:
    """[tokens of a row]: its words begin at character `first`, and none before `start`."""
    # A word takes the blank before it: to some tokenizers that is where it begins.
    ends = first - 1 + np.cumsum([len(word) + 1 for word in words])
    begins = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)[:, 0]
    found = np.searchsorted(ends, begins, side="right")
    special = np.asarray(encoding.special_tokens_mask, np.bool_)
    found[special | (begins < start) | (found == len(words))] = -1
    return found


def _spelling(rows: Sequence[Sequence[str]], encoded: Encoded) -> npt.NDArray[np.uint8]:
    """[N, 1 + C]; each different word is looked at once."""
    places: dict[str, int] = {}
    words = np.fromiter((places.setdefault(word, len(places)) for row in rows for word in row), int)
    first = np.cumsum([0, *(len(row) for row in rows)])[:-1]
    assert encoded.word_of is not None
    return spelled(spelling_array([*places]), words, first, encoded.word_of, encoded.lengths)


def spelled(
    table: npt.NDArray[np.uint8],
    words: npt.NDArray[np.integer[Any]],
    first: npt.NDArray[np.integer[Any]],
    word_of: npt.NDArray[np.integer[Any]],
    lengths: npt.NDArray[np.integer[Any]],
) -> npt.NDArray[np.uint8]:
    """[N, 1 + C]: the spelling of the word of each token.

    Args:
        table: [different words, 1 + C].
        words: The words of all rows one after the other, by their place in `table`.
        first: [B]: where the words of each row begin.
        word_of: [N], as in `Encoded`.
        lengths: [B]: tokens of each row.
    """
    found = np.zeros((len(word_of), table.shape[1]), np.uint8)
    there = word_of >= 0
    place = (np.repeat(first, lengths) + word_of)[there]
    found[there] = table[words[place]]
    return found


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder; raises ArtifactError where it has no fast one."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Steps
    from transformers import AutoTokenizer

    if str(read_json(folder / "config.json").get("model_type", "")).startswith("kdpipe-"):
        # AutoTokenizer looks at the config, whose type it would not know.
        import kdpipe.nets.pretrained  # noqa: F401
    try_out(folder)
    try:
        loaded = AutoTokenizer.from_pretrained(
            folder, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # noqa: BLE001 - Rust raises nothing narrower
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(f"{folder}: its tokenizer cannot be loaded ({reason})") from None
    if not getattr(loaded, "is_fast", False):
        raise ArtifactError(
            f"{folder}: its tokenizer has no tokenizer.json form, which kdpipe needs"
        )
    if not any((folder / name).is_file() for name in loaded.vocab_files_names.values()):
        raise ArtifactError(f"{folder} has no tokenizer.json: it is not a whole model folder")
    # Read back once: then its numbers are to the last bit those that readers of the file get.
    backend = Backend.from_str(loaded.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    if read_json(folder / "sentence_bert_config.json").get("do_lower_case"):
        steps = [Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
        backend.normalizer = Steps(steps)
    named = {f"{name}_token": getattr(loaded, f"{name}_token", None) for name in _SPECIAL}
    special = {name: str(token) for name, token in named.items() if token is not None}
    inputs = tuple(loaded.model_input_names)
    tokenizer = Tokenizer(backend, special, inputs, f"{folder}: its tokenizer")
    _check_special(tokenizer)
    return tokenizer


def _check_special(tokenizer: Tokenizer) -> None:
    """Refuse one that puts very many tokens into each row, or such as it has not."""
    added = tokenizer.backend.num_special_tokens_to_add(True)
    if added > _MOST_SPECIAL:
        raise ArtifactError(
            f"{tokenizer.name} adds {added:,} special tokens to a row: use another model"
        )
    bare = (row.ids for row in tokenizer.encodings(["", ("", "")]))
    highest = max((one for ids in bare for one in ids), default=0)
    if highest >= tokenizer.vocabulary:
        raise ArtifactError(
            f"{tokenizer.name} adds token {highest} to each row, and has"
            f" {tokenizer.vocabulary:,} tokens: use another model"
        )


def first_tokens(rows: Encoded) -> npt.NDArray[np.bool_]:
    """[N] bool: the first token of each word, which stands for it."""
    assert rows.word_of is not None
    row_of = np.repeat(np.arange(len(rows.lengths)), rows.lengths)
    same = (np.diff(rows.word_of, prepend=-1) == 0) & (np.diff(row_of, prepend=-1) == 0)
    begins: npt.NDArray[np.bool_] = (rows.word_of >= 0) & ~same
    return begins
