from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from kdpipe.activations import Tokens
from kdpipe.errors import ArtifactError
from kdpipe.tokenizer import Encoded, load_tokenizer
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
