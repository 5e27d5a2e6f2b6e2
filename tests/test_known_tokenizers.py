"""A tokenizer's fingerprint is told without loading it, while all it is made from is the same."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import pytest

from kdpipe import known_tokenizers, versions
from kdpipe.known_tokenizers import KnownTokenizer, tokenizer_of
from kdpipe.pipeline import CorpusSpec
from kdpipe.tokenizer import Tokenizer, load_tokenizer
from kdpipe.word_tokenizer import known_words, word_tokenizer
from tests.small import TEXT, corpus_spec
from tests.tiny import tiny_teacher_folder

ROOT = Path()


@pytest.fixture
def folder(project: Path) -> Path:
    return tiny_teacher_folder(project / "teacher")


def refuse(folder: Path) -> NoReturn:
    raise AssertionError("it is loaded")


def kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The fingerprint that is told without loading; None where it has to be loaded."""
    with monkeypatch.context() as patch:
        patch.setattr(known_tokenizers, "load_tokenizer", refuse)
        try:
            return tokenizer_of(folder, ROOT).fingerprint
        except AssertionError:
            return None


def place() -> Path:
    (found,) = (ROOT / ".kdpipe" / "tokenizers").iterdir()
    return found


def test_it_is_loaded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = load_tokenizer(folder).fingerprint
    assert kept(folder, monkeypatch) is None
    assert tokenizer_of(folder, ROOT).fingerprint == right
    assert kept(folder, monkeypatch) == right
    # It need not be the same folder.
    copy = tiny_teacher_folder(ROOT / "copy")
    assert kept(copy, monkeypatch) == right


def test_another_file_is_another_question(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tokenizer_of(folder, ROOT).fingerprint
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    assert kept(folder, monkeypatch) is None
    after = tokenizer_of(folder, ROOT).fingerprint
    assert after == load_tokenizer(folder).fingerprint != before
    (folder / "added_tokens.json").write_text("{}")
    assert kept(folder, monkeypatch) is None
    (folder / "added_tokens.json").unlink()
    assert kept(folder, monkeypatch) == after


def test_weights_do_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = tokenizer_of(folder, ROOT).fingerprint
    (folder / "model.safetensors").write_bytes(b"other")
    assert kept(folder, monkeypatch) == right


@pytest.mark.parametrize("name", ["tokenizers", "transformers"])
def test_other_readers_are_another_question(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tokenizer_of(folder, ROOT).fingerprint  # noqa: B018
    with monkeypatch.context() as patch:
        patch.setattr(known_tokenizers, "version", lambda one: version(one) + "!" * (one == name))
        assert kept(folder, monkeypatch) is None
    monkeypatch.setattr(versions, "TOKENIZE", versions.TOKENIZE + 1)
    assert kept(folder, monkeypatch) is None


def test_a_damaged_record_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = tokenizer_of(folder, ROOT).fingerprint
    data = place().read_bytes()
    for number in range(len(data)):
        place().write_bytes(data[:number] + bytes([data[number] ^ 1]) + data[number + 1 :])
        assert kept(folder, monkeypatch) is None, number
    place().write_bytes(data[:20])
    assert tokenizer_of(folder, ROOT).fingerprint == right
    assert place().read_bytes() == data


def test_a_record_about_another_one_does_not_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer_of(folder, ROOT).fingerprint  # noqa: B018
    first = place()
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    right = tokenizer_of(folder, ROOT).fingerprint
    (second,) = {*first.parent.iterdir()} - {first}
    second.write_bytes(first.read_bytes())
    assert kept(folder, monkeypatch) is None
    assert tokenizer_of(folder, ROOT).fingerprint == right


def test_a_wrong_record_is_mended_where_the_tokenizer_is_used(folder: Path) -> None:
    right = load_tokenizer(folder)
    loads: list[Tokenizer] = []

    def load() -> Tokenizer:
        loads.append(right)
        return right

    KnownTokenizer(lambda: word_tokenizer_of(TEXT), lambda: ["it"], ROOT).confirmed()
    assert KnownTokenizer(load, lambda: ["it"], ROOT).fingerprint != right.fingerprint
    assert loads == []
    assert KnownTokenizer(load, lambda: ["it"], ROOT).confirmed() == right.fingerprint
    assert KnownTokenizer(refuse_nothing, lambda: ["it"], ROOT).fingerprint == right.fingerprint


def refuse_nothing() -> Tokenizer:
    raise AssertionError("it is loaded")


def word_tokenizer_of(lines: list[str]) -> Tokenizer:
    spec = corpus_spec(lines)
    assert not isinstance(spec.tokenizer, str)
    return word_tokenizer(spec, spec.tokenizer, ROOT)


def words_known(spec: CorpusSpec) -> KnownTokenizer:
    assert not isinstance(spec.tokenizer, str)
    return known_words(spec, spec.tokenizer, ROOT)


def test_words_are_read_again_only_from_other_text(project: Path) -> None:
    spec = corpus_spec(TEXT)
    right = word_tokenizer_of(TEXT).fingerprint
    assert words_known(spec).fingerprint == right
    known = words_known(spec)
    assert known.fingerprint == right
    assert "loaded" not in vars(known)
    corpus_spec([*TEXT, "another word"])
    other = words_known(spec)
    assert other.fingerprint == word_tokenizer_of([*TEXT, "another word"]).fingerprint != right
    assert "loaded" in vars(other)


def test_words_of_the_hub_are_never_kept(project: Path) -> None:
    named = {"kind": "hub", "dataset": "someone/texts"}
    spec = {"sources": [named], "tokenizer": {"kind": "words"}}
    assert words_known(CorpusSpec.model_validate(spec)).made_from is None
    spec = {**json.loads(corpus_spec(TEXT).model_dump_json(exclude={"validation"}))}
    both = CorpusSpec.model_validate({**spec, "validation_sources": [named]})
    assert words_known(both).made_from is None
    right = word_tokenizer_of(TEXT)
    assert KnownTokenizer(lambda: right, None, ROOT).fingerprint == right.fingerprint
    assert not (ROOT / ".kdpipe").exists()
