"""What a masked language model proposes, beside the same model asked by hand."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForMaskedLM

from kdpipe.augment import masked_lm
from kdpipe.augment.masked_lm import MaskedModel, load_masked_model
from kdpipe.augment.side import Side
from kdpipe.augment.tools import Tools
from kdpipe.errors import ArtifactError, NonFiniteError
from kdpipe.tokenizer import Tokenizer
from tests.masked import masked_folder
from tests.tiny import SENTENCES, tiny_teacher_folder, tiny_tokenizer

CPU = torch.device("cpu")
TEXT = "The cat sleeps, qui, on the warm stove."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return masked_folder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def bert(folder):
    return load_masked_model(folder, CPU)


def by_word(model: MaskedModel, text: str, count: int = 15) -> dict[str, list[str]]:
    found = model.candidates(text, Side(text).places(), count)
    return {text[start:end]: words for (start, end), words in found.items()}


def asked_by_hand(folder, tokens: list[str], place: int, count: int, typed: bool) -> list[str]:
    """The pair masked and not masked, in pieces as the vocabulary spells them, one at a time."""
    vocabulary = tiny_tokenizer().backend.get_vocab()
    names = {number: token for token, number in vocabulary.items()}
    masked = [*tokens[:place], "[MASK]", *tokens[place + 1 :]]
    pair = ["[CLS]", *masked, "[SEP]", *tokens, "[SEP]"]
    ids = torch.tensor([[vocabulary[token] for token in pair]])
    types = torch.tensor([[0] * (len(tokens) + 2) + [1] * (len(tokens) + 1)])
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    inputs = {"token_type_ids": types} if typed else {}
    with torch.no_grad():
        logits = model(ids, attention_mask=torch.ones_like(ids), **inputs).logits[0, place + 1]
    likeliest = logits.argsort(descending=True)[:count].tolist()
    return [names[number] for number in likeliest if names[number].isalpha()]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_likeliest_whole_words_behind_masked_and_whole_text(tmp_path, family):
    folder = masked_folder(tmp_path / family, family)
    found = by_word(load_masked_model(folder, CPU), TEXT)
    tokens = re.findall(r"[#\w]+|[,.]", "the cat sleeps, q ##u ##i, on the warm stove.")
    assert [*found] == ["cat", "sleeps", "warm", "stove"]
    for word, words in found.items():
        typed = family == "bert"
        assert words == asked_by_hand(folder, tokens, tokens.index(word), 15, typed)
        assert 5 < len(words) <= 15


def test_count_is_that_of_looked_at_tokens(bert):
    all_of_them = by_word(bert, TEXT, 10_000)["cat"]
    assert len(all_of_them) == len({*all_of_them}) > 150
    assert by_word(bert, TEXT, 15)["cat"] == all_of_them[: len(by_word(bert, TEXT, 15)["cat"])]
    assert len(by_word(bert, TEXT, 1)["cat"]) <= 1


def test_what_is_proposed_does_not_depend_on_the_size_of_a_pass(bert, monkeypatch):
    whole = by_word(bert, TEXT)
    monkeypatch.setattr(masked_lm, "LOGITS", 1)
    assert by_word(bert, TEXT) == whole


def test_words_beyond_the_positions_are_not_read(bert):
    text = " ".join(["cat"] * 100)
    found = bert.candidates(text, Side(text).places(), 15)
    # 64 positions, of which the first is [CLS].
    assert [*found] == Side(text).places()[:63]
    assert by_word(bert, "") == {}
    assert by_word(bert, "It is qui.") == {}


def test_pieces_with_the_blank_inside_are_told_from_words():
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    names = {number: token for token, number in backend.get_vocab().items()}
    seen = {}

    class Says:
        """Likes all tokens, those with a high number most."""

        device = CPU
        config = type("Config", (), {"vocab_size": len(names)})

        def __call__(self, input_ids):
            for row in input_ids.tolist():
                seen[row.index(2)] = [names[number] for number in row]
            logits = torch.arange(float(len(names))).expand(*input_ids.shape, -1)
            return type("Output", (), {"logits": logits})

    model = MaskedModel(Says(), Tokenizer(backend, {"mask_token": "<mask>"}, ()), 64, False)
    text = "The cat (was) very cold."
    found = by_word(model, text, 10_000)
    assert "cat" in found
    assert {place for place, row in seen.items() if row[place] == "<mask>"} == {*seen}
    after_blank = {token[1:] for token in names.values() if token[0] == "\u0120"}
    assert {*found["cat"]} == {word for word in after_blank if word.isalpha()}
    assert "They" not in found["cat"]
    start = by_word(model, "arm lies", 10_000)["arm"]
    whole = {word for word in names.values() if word.isalpha() and word.isascii()}
    assert {*start} == whole


@pytest.mark.parametrize("kind", ["no head", "no mask", "code", "damaged", "no folder", "nan"])
def test_models_that_cannot_be_used(tmp_path, folder, kind):
    tools = Tools(tmp_path, CPU)
    path = tmp_path / "model"
    if kind == "no head":
        tiny_teacher_folder(path)
        match = r"model: its weights lack cls\..+, so it is no masked language model: use one that"
    elif kind == "no folder":
        match = r"model: no such folder, and not a hub id \(owner/name\)|cannot be reached"
    else:
        masked_folder(path)
        match = {
            "no mask": r"its tokenizer has no mask token: use a model such as BERT$",
            "code": r"config\.json has 'auto_map': the model brings its own code, which is not run",
            "damaged": r"model.safetensors is no safetensors file \(its header has \d+ bytes\)",
            "nan": r"^the masked language model gives NaN or Inf instead of words: use another",
        }[kind]
    if kind == "no mask":
        config = json.loads((path / "tokenizer_config.json").read_text())
        config.pop("mask_token")
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    elif kind == "code":
        config = json.loads((path / "config.json").read_text())
        config["auto_map"] = {"AutoModelForMaskedLM": "own.Model"}
        (path / "config.json").write_text(json.dumps(config))
    elif kind == "damaged":
        (path / "model.safetensors").write_bytes(b"no weights")
    elif kind == "nan":
        weights = load_file(path / "model.safetensors")
        weights["cls.predictions.transform.dense.bias"][0] = float("nan")
        save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(NonFiniteError if kind == "nan" else ArtifactError, match=match):
        tools.masked_model(str(path), None).candidates(TEXT, Side(TEXT).places(), 15)
