from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, Unigram
from tokenizers.pre_tokenizers import ByteLevel, Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from kdpipe.activations import Tokens
from kdpipe.errors import ArtifactError
from kdpipe.tokenizer import Encoded, Tokenizer, load_tokenizer
from tests.tiny import SENTENCES, tiny_teacher_folder, tiny_tokenizer

TEXTS = [*SENTENCES[:8], "", "Zebra (42)!", "the cat " * 40]
PAIRS = [
    *zip(SENTENCES[:8:2], SENTENCES[1:8:2], strict=True),
    ("The cat sleeps.", ""),
    ("", "The cat sleeps."),
    ("the cat " * 40, "A dog."),
    ("A dog.", "the cat " * 40),
    ("the dog " * 40, "the cat " * 40),
]


def rows(encoded: Encoded) -> list[list[int]]:
    """The flat ids, cut into rows."""
    return [part.tolist() for part in np.split(encoded.ids, encoded.lengths.cumsum()[:-1])]


def edit(path: Path, **changes: object) -> None:
    """Set keys of a JSON file, each named by its path with two underscores between keys."""
    value = json.loads(path.read_text())
    for dotted, change in changes.items():
        *outer, last = dotted.split("__")
        place = value
        for key in outer:
            place = place[key]
        place[last] = change
    path.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose tokenizer.json truncates to 16 tokens and pads to 16."""
    return tiny_teacher_folder(tmp_path_factory.mktemp("teacher") / "model")


def test_what_the_file_says_about_length_is_ignored(folder: Path) -> None:
    spec = json.loads((folder / "tokenizer.json").read_text())
    assert spec["truncation"]["max_length"] == 16
    assert spec["padding"]["strategy"] == {"Fixed": 16}
    tokenizer = load_tokenizer(folder)
    encoded = tokenizer.encode(["cat", "the cat " * 40], 1000)
    assert encoded.lengths.tolist() == [3, 82]
    assert rows(encoded)[0] == [tokenizer.backend.token_to_id(t) for t in ("[CLS]", "cat", "[SEP]")]


@pytest.mark.parametrize("limit", [5, 12, 64])
def test_texts_become_the_ids_that_transformers_gives(folder: Path, limit: int) -> None:
    reference = AutoTokenizer.from_pretrained(folder)(TEXTS, truncation=True, max_length=limit)
    encoded = load_tokenizer(folder).encode(TEXTS, limit)
    assert rows(encoded) == reference["input_ids"]
    assert encoded.second_at is None
    assert encoded.ids.dtype == encoded.lengths.dtype == np.int64


@pytest.mark.parametrize("limit", [8, 13, 64])
def test_pairs_become_the_ids_and_types_that_transformers_gives(folder: Path, limit: int) -> None:
    reference = AutoTokenizer.from_pretrained(folder)(
        PAIRS, truncation=True, max_length=limit, padding=True, return_tensors="pt"
    )
    encoded = load_tokenizer(folder).encode(PAIRS, limit)
    tokens = Tokens.of(encoded, 0)
    assert torch.equal(tokens.padded(0), reference["input_ids"])
    assert torch.equal(tokens.mask().long(), reference["attention_mask"])
    assert torch.equal(tokens.types(), reference["token_type_ids"])


def test_a_template_without_types_has_no_second_text(folder: Path, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    names = [(token, tokenizer.backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=names
    )
    encoded = tokenizer.encode([("The cat.", "A dog.")], 64)
    assert encoded.lengths.tolist() == [10]
    assert encoded.second_at is not None
    assert encoded.second_at.tolist() == [10]


def test_texts_and_pairs_stand_side_by_side(folder: Path) -> None:
    encoded = load_tokenizer(folder).encode(["A dog.", ("A dog.", "The cat.")], 64)
    assert encoded.lengths.tolist() == [5, 9]
    assert encoded.second_at is not None
    assert encoded.second_at.tolist() == [5, 5]


def test_nothing_becomes_nothing(folder: Path) -> None:
    encoded = load_tokenizer(folder).encode([], 64)
    assert (encoded.ids.shape, encoded.lengths.shape, encoded.second_at) == ((0,), (0,), None)


def test_no_call_leaves_truncation_behind(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    before = tokenizer.fingerprint
    tokenizer.encode(TEXTS, 4)
    with pytest.raises(TypeError):
        tokenizer.encode([None], 4)  # type: ignore[list-item]
    assert tokenizer.backend.truncation is None
    assert tokenizer.backend.padding is None
    assert load_tokenizer(folder).fingerprint == before


def test_facts(folder: Path) -> None:
    tokenizer, reference = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.vocabulary == len(reference)
    assert tokenizer.pad_id == reference.pad_token_id == 0
    assert tokenizer.input_names == ("input_ids", "token_type_ids", "attention_mask")
    assert tokenizer.special == {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }


def test_without_a_padding_token_rows_are_filled_with_0() -> None:
    tokenizer = tiny_tokenizer()
    del tokenizer.special["pad_token"]
    assert tokenizer.pad_id == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"truncation__max_length": 7},
        {"truncation": None},
        {"padding": None},
        {"padding__strategy": "BatchLongest"},
    ],
)
def test_settings_of_length_do_not_change_the_fingerprint(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    folder = tiny_teacher_folder(tmp_path / "a")
    before = load_tokenizer(folder).fingerprint
    edit(folder / "tokenizer.json", **changes)
    edit(folder / "tokenizer_config.json", model_max_length=11, name_or_path="elsewhere")
    assert load_tokenizer(folder).fingerprint == before


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer__lowercase": False},
        {"normalizer": None},
        {"model__continuing_subword_prefix": "@@"},
        {"post_processor": None},
    ],
)
def test_what_the_tokenizer_does_changes_the_fingerprint(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    folder = tiny_teacher_folder(tmp_path / "a")
    before = load_tokenizer(folder).fingerprint
    edit(folder / "tokenizer.json", **changes)
    assert load_tokenizer(folder).fingerprint != before


def test_one_other_word_changes_the_fingerprint(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "a")
    before = load_tokenizer(folder)
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    vocabulary = spec["model"]["vocab"]
    vocabulary["kitten"] = vocabulary.pop("cat")
    path.write_text(json.dumps(spec))
    after = load_tokenizer(folder)
    assert after.vocabulary == before.vocabulary
    assert after.fingerprint != before.fingerprint


def test_the_role_of_a_token_changes_the_fingerprint(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "a")
    before = load_tokenizer(folder).fingerprint
    edit(folder / "tokenizer_config.json", mask_token="[UNK]")
    assert load_tokenizer(folder).fingerprint != before


def test_the_fingerprint_outlives_a_copy_of_the_file(tmp_path: Path) -> None:
    # A class of transformers 5 reads these scores exactly, the tokenizers library does not quite.
    scores = np.random.default_rng(0).uniform(-15, 0, 500).astype(np.float32).tolist()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [(f"\u2581w{index}", score) for index, score in enumerate(scores)]
    backend = Backend(
        Unigram([*((token, 0.0) for token in special), *words, ("<mask>", 0.0)], unk_id=3)
    )
    backend.pre_tokenizer = Metaspace()
    backend.add_special_tokens([*special, "<mask>"])
    fingerprints = []
    for name, kind in (("a", "XLMRobertaTokenizer"), ("b", "PreTrainedTokenizerFast")):
        folder = tmp_path / name
        folder.mkdir()
        roles = ("bos_token", "pad_token", "eos_token", "unk_token")
        config = {"tokenizer_class": kind, "cls_token": "<s>", "sep_token": "</s>"}
        config |= {"mask_token": "<mask>", **dict(zip(roles, special, strict=True))}
        (folder / "config.json").write_text('{"model_type": "xlm-roberta"}')
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text(backend.to_str())
        loaded = load_tokenizer(folder)
        backend = loaded.backend
        fingerprints.append(loaded.fingerprint)
    assert fingerprints[0] == fingerprints[1]


WORDS = [
    ["The", "cat's", "(big)", "dog", "\u2603", "sleeps"],
    ["\u200b", "cat", "", "\u200b", "", "dog"],
    ["don't"] * 40,
    ["na\u00efve", "\u00c5ngstr\u00f6m", "[SEP]", "dog"],
    ["A", "dog"],
]


def words_of(encoded: Encoded) -> list[list[int]]:
    """The word of each token, row by row."""
    assert encoded.word_of is not None
    return [part.tolist() for part in np.split(encoded.word_of, encoded.lengths.cumsum()[:-1])]


@pytest.mark.parametrize("limit", [5, 16, 1000])
def test_words_become_the_ids_and_words_that_transformers_gives(folder: Path, limit: int) -> None:
    reference = AutoTokenizer.from_pretrained(folder)(
        WORDS, is_split_into_words=True, truncation=True, max_length=limit
    )
    encoded = load_tokenizer(folder).encode_words(WORDS, limit)
    assert rows(encoded) == reference["input_ids"]
    wanted = [reference.word_ids(row) for row in range(len(WORDS))]
    assert words_of(encoded) == [[-1 if w is None else w for w in row] for row in wanted]
    assert encoded.second_at is None
    assert encoded.word_of is not None
    assert encoded.word_of.dtype == np.int64


def test_words_without_tokens_and_special_tokens_of_no_word(folder: Path) -> None:
    encoded = load_tokenizer(folder).encode_words(WORDS[1:3], 12)
    assert words_of(encoded)[0] == [-1, 1, 5, -1]
    cut = words_of(encoded)[1]
    assert len(cut) == 12
    assert cut[0] == cut[-1] == -1
    assert cut[1:-1] == [number // 5 for number in range(10)]


@pytest.mark.parametrize("prompt", ["query: ", "query:", "the cat"])
def test_a_prompt_is_of_no_word(folder: Path, prompt: str) -> None:
    tokenizer = load_tokenizer(folder)
    encoded = tokenizer.encode_words([["A", "dog"], ["dog"]], 64, prompt)
    assert rows(encoded) == rows(tokenizer.encode([f"{prompt}A dog", f"{prompt}dog"], 64))
    head = [-1] * tokenizer.count(prompt)
    assert words_of(encoded) == [
        [*head, 0, 1, -1],
        [*head, *[0] * (encoded.lengths[1] - len(head) - 1), -1],
    ]


def byte_level(*merges: str, trim: bool) -> Tokenizer:
    """Bytes, and the merges; a blank begins the token of the word after it."""
    alphabet = sorted(ByteLevel.alphabet())
    pairs = [tuple(merge.split()) for merge in merges]
    tokens = [*alphabet, *("".join(pair) for pair in pairs), "<s>", "</s>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Backend(BPE(vocabulary, [(a, b) for a, b in pairs]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, trim_offsets=trim)
    ends = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
    backend.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ends
    )
    return Tokenizer(backend, {}, ("input_ids",))


@pytest.mark.parametrize("trim", [True, False])
def test_a_word_takes_the_blank_before_it(trim: bool) -> None:
    tokenizer = byte_level("c a", "ca t", "\u0120 cat", trim=trim)
    # The blank before the snowman is a token of its own, and the snowman is three.
    rows_of_words = [["cat", "cat", "\u2603", "\u2603", "", "cat"], ["cat"]]
    encoded = tokenizer.encode_words(rows_of_words, 64)
    assert rows(encoded) == rows(tokenizer.encode(["cat cat \u2603 \u2603  cat", "cat"], 64))
    assert words_of(encoded)[0] == [-1, 0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 5, -1]
    prompted = tokenizer.encode_words([["cat", "cat"]], 64, "c: ")
    assert words_of(prompted) == [[-1, -1, -1, 0, 1, -1]]


def test_a_token_of_several_words_is_of_the_first() -> None:
    names = ["<unk>", *(f"\u2581{word}" for word in ("New", "York", "is")), "\u2581New\u2581York"]
    backend = Backend(Unigram([(name, -len(name) / 10) for name in names], unk_id=0))
    backend.pre_tokenizer = Metaspace(split=False)
    tokenizer = Tokenizer(backend, {}, ("input_ids",))
    found = tokenizer.encode_words([["is", "New", "York", "is"], ["York", "New"]], 64)
    assert words_of(found) == [[0, 1, 3], [0, 1]]


def test_a_token_that_covers_nothing_behind_the_text_is_of_no_word() -> None:
    # No backend at hand gives such a token; from one that does no word may come that is not there.
    class Given(SimpleNamespace):
        def __len__(self):
            return len(self.ids)

    encoding = Given(ids=[5, 6], offsets=[(0, 3), (3, 3)], special_tokens_mask=[0, 0])
    backend = SimpleNamespace(
        num_special_tokens_to_add=lambda pair: 0,
        enable_truncation=lambda limit: None,
        no_truncation=lambda: None,
        encode_batch=lambda texts: [encoding],
        pre_tokenizer=None,
    )
    assert words_of(Tokenizer(backend, {}, ()).encode_words([["cat"]], 8)) == [[0, -1]]


def test_no_rows_of_words(folder: Path) -> None:
    encoded = load_tokenizer(folder).encode_words([], 64)
    assert encoded.word_of is not None
    assert (encoded.ids.shape, encoded.word_of.shape) == ((0,), (0,))


@pytest.mark.parametrize("prompt", ["query: ", "The cat", "Wait until the soup is cold. "])
def test_a_prompt_takes_its_tokens_and_the_leading_special_one(folder: Path, prompt: str) -> None:
    whole = AutoTokenizer.from_pretrained(folder)(prompt)["input_ids"]
    assert load_tokenizer(folder).count(prompt) == len(whole) - 1


@pytest.mark.parametrize("prompt", ["", "  "])
def test_no_prompt_takes_nothing(folder: Path, prompt: str) -> None:
    assert load_tokenizer(folder).count(prompt) == 0


def test_lower_case_may_be_a_setting_of_sentence_transformers(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "a")
    edit(folder / "tokenizer.json", normalizer__lowercase=False)
    upper, lower = ["THE CAT"], ["the cat"]
    cased = load_tokenizer(folder)
    assert rows(cased.encode(upper, 64)) != rows(cased.encode(lower, 64))
    edit(folder / "sentence_bert_config.json", do_lower_case=True)
    uncased = load_tokenizer(folder)
    assert rows(uncased.encode(upper, 64)) == rows(cased.encode(lower, 64))
    assert uncased.fingerprint != cased.fingerprint


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "a")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ArtifactError) as caught:
        load_tokenizer(folder)
    assert str(caught.value) == f"{folder} has no tokenizer.json: it is not a whole model folder"


def test_a_vocabulary_alone_is_enough(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "a")
    wanted = load_tokenizer(folder).encode(TEXTS, 64)
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(words, key=words.get)))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    found = load_tokenizer(folder).encode(TEXTS, 64)
    assert rows(found) == rows(wanted)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "a")
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ArtifactError) as caught:
        load_tokenizer(folder)
    assert str(caught.value).startswith(f"{folder}: its tokenizer cannot be loaded (")
    assert "\n" not in str(caught.value)


def test_a_prompt_of_which_nothing_is_left_takes_no_tokens(folder: Path) -> None:
    assert load_tokenizer(folder).count("\u200b") == 0
