"""A student with another tokenizer than its teacher: rows by their text, words by their place."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedTokenizerFast

from kdpipe import job
from kdpipe.errors import UsageError
from kdpipe.join import join
from kdpipe.parts import EMBEDDING, TOKEN_LOGITS, Needs, Part
from tests.pieces import make_cache, make_corpus, new_project, sentences
from tests.tiny import tiny_encoder, tiny_teacher_folder

TAGS = ["A", "B", "O"]


def other_folder(path, words, limit=64):
    """A model whose tokens are whole words, with `<s>` and `</s>` around them."""
    names = ["<pad>", "<unk>", "<s>", "</s>", *sorted(words)]
    vocabulary = {name: place for place, name in enumerate(names)}
    backend = Backend(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    ends = [(name, vocabulary[name]) for name in ("<s>", "</s>")]
    backend.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    encoder = tiny_encoder(layers=2)
    encoder.model.resize_token_embeddings(len(names))
    encoder.model.save_pretrained(path)
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=limit,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    ).save_pretrained(path)
    return path


def words_of(lines):
    return {word for line in lines for word in re.findall(r"\w+|[^\w\s]", line)}


@pytest.fixture
def place(project):
    """A teacher and a student that cut the same lines of words into other tokens."""
    lines = sentences(60)
    other_folder(project / "other", words_of(lines))
    tiny_teacher_folder(project / "teacher", layers=4)
    headed = AutoConfig.from_pretrained(project / "teacher")
    headed.num_labels = len(TAGS)
    headed.id2label = dict(enumerate(TAGS))
    torch.manual_seed(3)
    for name in ("modules.json", "config_sentence_transformers.json"):
        (project / "teacher" / name).unlink()
    AutoModelForTokenClassification.from_config(headed).save_pretrained(project / "teacher")
    with (project / "words.jsonl").open("w") as file:
        for number, line in enumerate(lines):
            words = line.split()
            tags = [TAGS[(number + place) % 3] for place in range(len(words))]
            file.write(json.dumps({"tokens": words, "tags": tags}) + "\n")
    source = {"kind": "files", "files": ["words.jsonl"], "text_column": "tokens"}
    source["label_column"] = "tags"
    targets = [{"kind": "logits", "per": "token"}, {"kind": "embedding", "storage": "fp32"}]
    targets += [{"kind": "hidden", "layers": [1]}]
    corpora = {
        # Rows are cut in different places, and half of the teacher's rows are missing.
        "text": {"sources": [source], "tokenizer": "tiny", "max_seq_length": 20, "max_rows": 40},
        "mine": {"sources": [source], "tokenizer": "other", "max_seq_length": 12},
    }
    caches = {"said": {"corpus": "text", "teacher": "tiny", "targets": targets, "dtype": "fp32"}}
    made = {
        "caches": ["said"],
        "corpus": "mine",
        "model": {"kind": "shape", "num_hidden_layers": 1, "hidden_size": 16}
        | {"num_attention_heads": 2, "intermediate_size": 16},
        "head": {"kind": "token"},
        "objectives": [{"kind": "logits", "temperature": 2.0}, {"kind": "labels"}],
        "train": {"max_steps": 3, "tokens_per_batch": 128, "bf16": False},
    }
    return new_project(project, lines, corpora=corpora, caches=caches, students={"s": made})


def joined_parts(place, needs):
    theirs = make_corpus(place, "text")
    mine = make_corpus(place, "mine")
    cache, _ = make_cache(place, theirs)
    return mine, theirs, cache, join(mine, cache, needs)


def test_rows_are_found_by_their_text(place):
    mine, theirs, cache, joined = joined_parts(place, frozenset({EMBEDDING}))
    assert joined.known.sum() == 40
    rows = np.flatnonzero(joined.known)[::-1].copy()
    said, mask = joined.read(rows, frozenset({EMBEDDING}), mine.gather(rows))
    assert mask is None
    assert torch.equal(said.lengths, torch.from_numpy(mine.gather(rows).lengths))
    by_text = {tuple(words): row for row, words in enumerate(theirs.words(np.arange(40)))}
    there = np.array([by_text[tuple(words)] for words in mine.words(rows)])
    assert torch.equal(said[EMBEDDING], cache.read(there, frozenset({EMBEDDING}))[EMBEDDING])


def test_words_are_found_by_their_place(place):
    needs = frozenset({TOKEN_LOGITS})
    mine, theirs, cache, joined = joined_parts(place, needs)
    rows = np.flatnonzero(joined.known)[5:17]
    encoded = mine.gather(rows)
    said, mask = joined.read(rows, needs, encoded)
    there = joined.row_of[rows]
    logits, other = cache.read(there, needs)[TOKEN_LOGITS], theirs.gather(there)
    wanted, place_of = {}, 0
    for number, length in enumerate(other.lengths):
        for word in other.word_of[place_of : place_of + length]:
            wanted.setdefault((number, int(word)), logits[place_of])
            place_of += 1
    found, token, seen = 0, 0, set()
    for number, length in enumerate(encoded.lengths):
        for word in encoded.word_of[token : token + length]:
            key = (number, int(word))
            is_first = word >= 0 and key not in seen
            seen.add(key)
            assert mask[token] == (is_first and key in wanted), key
            if mask[token]:
                assert torch.equal(said[TOKEN_LOGITS][token], wanted[key])
                found += 1
            token += 1
    assert found > 50
    cut = [key for key in wanted if key[1] >= 0 and key not in seen]
    assert cut, "some words of the teacher were cut off for the student"


def test_a_student_learns_across_tokenizers(place, project):
    make_cache(place, make_corpus(place, "text"))
    make_corpus(place, "mine")
    corpus, caches = place.inputs("s")
    assert corpus.facts.max_seq_length == 12
    work = job.prepare(place, "s", corpus, caches, "cpu")
    rows = {row for batch in _epoch(work.run) for row in batch.tolist()}
    assert rows == set(np.flatnonzero(work.run.known & ~corpus.held_out).tolist())
    before = {name: value.clone() for name, value in work.run.modules.state_dict().items()}
    assert job.carry_out(work, project / "runs") is None
    after = work.run.modules.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def _epoch(run):
    from kdpipe import train

    return train._epoch(run, 0)


def test_a_part_of_a_corpus_learns_from_all_that_was_said_about_the_whole(project):
    lines = sentences(60)
    (project / "some.txt").write_text("".join(f"{line}\n" for line in reversed(lines[20:50])))
    some = {"sources": [{"kind": "files", "files": ["some.txt"]}], "tokenizer": "tiny"}
    targets = [{"kind": "hidden", "layers": [1], "storage": "fp32"}]
    caches = {"said": {"corpus": "text", "teacher": "tiny", "targets": targets, "dtype": "fp32"}}
    place = new_project(project, lines, corpora={"some": some}, caches=caches)
    whole, mine = make_corpus(place, "text"), make_corpus(place, "some")
    cache, _ = make_cache(place, whole, "said")
    needs = frozenset({Part("hidden", 1)})
    joined = join(mine, cache, needs)
    assert joined.known.all()
    rows = np.array([7, 0, 29])
    said, mask = joined.read(rows, needs, mine.gather(rows))
    assert mask is None
    wanted = cache.read(np.array([49 - row for row in rows]), needs)
    assert torch.equal(said[Part("hidden", 1)], wanted[Part("hidden", 1)])


def test_rows_that_are_masked_elsewhere_are_not_the_same(project):
    masks = [
        {"sources": [{"kind": "files", "files": ["text.txt"]}], "tokenizer": "tiny", "seed": seed}
        | {"mlm_probability": 0.3}
        for seed in (1, 2)
    ]
    targets = [{"kind": "hidden", "layers": [1]}]
    caches = {"said": {"corpus": "one", "teacher": "tiny", "targets": targets}}
    corpora = {"one": masks[0], "other": masks[1]}
    place = new_project(project, sentences(20), corpora=corpora, caches=caches)
    cache, _ = make_cache(place, make_corpus(place, "one"), "said")
    with pytest.raises(UsageError, match=r"no row of the same tokens: they differ in .* masks$"):
        join(make_corpus(place, "other"), cache, frozenset({Part("hidden", 1)}))


def test_what_has_no_counterpart_is_refused(place):
    with pytest.raises(UsageError, match=r"no hidden states of layer 1 in common: use objectives"):
        joined_parts(place, frozenset({Part("hidden", 1)}))


def test_texts_without_words_have_no_tokens_in_common(place, project):
    cache = joined_parts(place, Needs())[2]
    sources = [{"kind": "files", "files": ["text.txt"]}]
    plain = {"sources": sources, "tokenizer": "other", "max_seq_length": 12}
    again = new_project(project, sentences(60), corpora={"plain": plain})
    other = make_corpus(again, "plain")
    with pytest.raises(UsageError, match="matched by words, and these rows are none"):
        join(other, cache, frozenset({TOKEN_LOGITS}))


def test_nothing_in_common_is_refused(place, project):
    cache = joined_parts(place, Needs())[2]
    sources = [{"kind": "files", "files": ["else.txt"]}]
    plain = {"sources": sources, "tokenizer": "other", "max_seq_length": 12}
    (project / "else.txt").write_text("Something else.\nAnd more of it.\n")
    again = new_project(project, sentences(60), corpora={"plain": plain})
    with pytest.raises(UsageError, match="have no text in common"):
        join(make_corpus(again, "plain"), cache, frozenset({EMBEDDING}))


def test_layers_of_a_teacher_with_other_tokens_are_refused(place):
    make_cache(place, make_corpus(place, "text"))
    make_corpus(place, "mine")
    spec = place.pipeline.students["s"].model_dump(mode="json", exclude_defaults=True)
    spec["model"] = {"kind": "teacher_layers", "layers": [1]}
    changed = place.pipeline.model_copy(
        update={"students": {"s": type(place.pipeline.students["s"]).model_validate(spec)}}
    )
    again = type(place)(place.file, changed, place.root)
    corpus, caches = again.inputs("s")
    with pytest.raises(UsageError, match="reads other tokens than its teacher"):
        job.prepare(again, "s", corpus, caches, "cpu")
