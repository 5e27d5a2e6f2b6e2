"""The reader in tests/reader.py, made from docs/formats.md alone, reads what kdpipe wrote."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash

from kdpipe import artifact, checkpoint, corpus, fill_blocks, job, records, train
from kdpipe.errors import ArtifactError
from kdpipe.parts import EMBEDDING, Part
from tests.every_kind import STORAGES, Made, make, tagged_words
from tests.reader import (
    Array,
    canonical,
    decode,
    read_blocks,
    read_manifest,
    read_safetensors,
    read_sealed,
    row_digest,
    tokens_digest,
)

PAGE = (Path(__file__).parents[1] / "docs" / "formats.md").read_text("utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fill_blocks, "SMALLEST", 20)
        patch.setattr(fill_blocks, "SPREAD", 250)
        patch.chdir(root := tmp_path_factory.mktemp("made"))
        yield make(root)


def test_the_chain_of_digests_goes_from_the_text_to_the_student(made: Made) -> None:
    text, text_digest = read_manifest(made.folder("corpora", "text"))
    cache, cache_digest = read_manifest(made.folder("caches", "fp32"))
    student, _ = read_manifest(made.folder("students", "s"))
    read = xxhash.xxh3_128_hexdigest((made.root / "text.txt").read_bytes())
    files = hashlib.sha256(canonical([[".txt", f"xxh3_128:{read}"]])).hexdigest()
    facts = text["facts"]
    assert text["inputs"] == {
        "meaning": "2",
        "source.0": files,
        "tokenizer": facts["tokenizer"],
        "prompt": facts["prompt"],
        "max_seq_length": str(facts["max_seq_length"]),
    }
    assert cache["inputs"] == {
        "meaning": "3",
        "corpus": text_digest,
        "teacher": cache["facts"]["teacher"],
        "dtype": cache["facts"]["dtype"],
    }
    assert student["inputs"] == {
        "meaning": "2",
        "corpus": text_digest,
        "cache.fp32": cache_digest,
    }


def test_a_folder_has_what_its_manifest_lists_and_no_more(made: Made) -> None:
    folders = [*made.folder("corpora").iterdir(), *made.folder("caches").iterdir()]
    for folder in (*folders, made.folder("students", "s")):
        listed = {file["name"] for file in read_manifest(folder)[0]["files"]}
        there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        card = {"README.md"} if folder.parent.name == "students" else set()
        assert there == listed | card | {"manifest.json"}


def test_blocks_are_read_and_their_digests_follow(made: Made) -> None:
    folder = made.folder("corpora", "text")
    manifest, _ = read_manifest(folder)
    facts, blocks = manifest["facts"], read_blocks(folder)
    key = struct.pack("<q", manifest["spec"]["seed"])
    row = 0
    for block, fact in zip(blocks, facts["blocks"], strict=True):
        assert block.schema.names == ["row", "text_digest", "held_out", "length", "input_ids"]
        types = [str(field.type) for field in block.schema]
        ids_type = "list<item: uint16 not null>"
        assert types == ["int64", "fixed_size_binary[16]", "bool", "int32", ids_type]
        rows, lengths = block["row"].to_pylist(), block["length"].to_pylist()
        assert rows == [*range(row, row + fact["rows"])]
        assert (fact["first_row"], fact["tokens"]) == (row, sum(lengths))
        assert [len(ids) for ids in block["input_ids"].to_pylist()] == lengths
        texts = [made.lines[number].encode() for number in rows]
        digests = [hashlib.blake2b(text, digest_size=16).digest() for text in texts]
        assert block["text_digest"].to_pylist() == digests
        drawn = [hashlib.blake2b(digest, digest_size=8, key=key).digest() for digest in digests]
        limit = int(manifest["spec"]["validation"] * 2**64)
        held_out = [int.from_bytes(number, "little") < limit for number in drawn]
        assert block["held_out"].to_pylist() == held_out
        ids = [token for row_ids in block["input_ids"].to_pylist() for token in row_ids]
        assert fact["tokens_digest"] == tokens_digest(ids, lengths)
        row += fact["rows"]
    assert facts["rows"] == row == len(made.lines)
    assert facts["held_out"] == sum(sum(block["held_out"].to_pylist()) for block in blocks)
    for file in manifest["files"]:
        content = (folder / file["name"]).read_bytes()
        assert file["name"] == f"block-{xxhash.xxh3_128_hexdigest(content)[:16]}.arrow"


def test_pairs_and_labels_have_columns_of_their_own(made: Made) -> None:
    folder = made.folder("corpora", "pairs")
    blocks, facts = read_blocks(folder), read_manifest(folder)[0]["facts"]
    for block, fact in zip(blocks, facts["blocks"], strict=True):
        second, lengths = block["second_at"].to_pylist(), block["length"].to_pylist()
        assert str(block.schema.field("second_at").type) == "int32"
        assert all(1 < place < length for place, length in zip(second, lengths, strict=True))
        ids = block["input_ids"].to_pylist()
        # The token before the second text ends the first one, as the last token of the row does.
        ends = [(row[place - 1], row[-1]) for row, place in zip(ids, second, strict=True)]
        assert all(middle == end for middle, end in ends)
        flat = [token for row in ids for token in row]
        assert fact["tokens_digest"] == tokens_digest(flat, lengths, second)
    labels = [label for block in blocks for label in block["label"].to_pylist()]
    assert labels == [*[None] * 10, *(n / 4 for n in range(10, 20))]
    assert {str(block.schema.field("label").type) for block in blocks} == {"double"}


def test_words_and_tags_have_columns_of_their_own(made: Made) -> None:
    folder = made.folder("corpora", "words")
    manifest, _ = read_manifest(folder)
    blocks = read_blocks(folder)
    assert manifest["facts"]["labels"] == ["T0", "T1", "T2"]
    texts, numbers = "list<item: string not null>", "list<item: int32 not null>"
    for block in blocks:
        types = {field.name: str(field.type) for field in block.schema}
        assert (types["words"], types["word"], types["label"]) == (texts, numbers, texts)
    rows = [row for block in blocks for row in block.to_pylist()]
    for row, sentence in zip(rows, tagged_words(), strict=True):
        assert row["words"] == [word for word, _ in sentence]
        assert row["label"] == [tag for _, tag in sentence]
        text = " ".join(row["words"]).encode()
        assert row["text_digest"] == hashlib.blake2b(text, digest_size=16).digest()
        assert len(row["word"]) == row["length"] == len(row["input_ids"])
        # All words are one token here, but for the first, for what ends one, and for numbers.
        assert row["word"][0] == row["word"][-1] == -1
        inner = row["word"][1:-1]
        assert inner[0] == 1
        assert inner == sorted(inner)
        assert {*inner} == {*range(1, inner[-1] + 1)}
    cut = [row for row in rows if row["length"] == 12]
    assert 3 < sum(row["word"][-2] + 1 < len(row["words"]) for row in cut) < len(rows)
    for block, fact in zip(blocks, manifest["facts"]["blocks"], strict=True):
        ids = [token for row in block["input_ids"].to_pylist() for token in row]
        assert fact["tokens_digest"] == tokens_digest(ids, block["length"].to_pylist())


@pytest.mark.parametrize("storage", STORAGES)
def test_shards_decode_to_what_the_library_reads(made: Made, storage: str) -> None:
    folder = made.folder("caches", storage)
    manifest, _ = read_manifest(folder)
    facts, files = manifest["facts"], manifest["files"]
    blocks = read_blocks(made.folder("corpora", "text"))
    asked = [("embedding", None), ("hidden", 0), ("hidden", 2)]
    questions = [{"part": part, "layer": layer, "storage": storage} for part, layer in asked]
    assert facts["questions"] == questions
    assert len(files) == len(blocks) * len(questions)
    read: dict[tuple[str, int | None], list[Array]] = {place: [] for place in asked}
    for number, block in enumerate(blocks):
        for place, question in enumerate(asked):
            name = files[number * len(questions) + place]["name"]
            prefix = ".".join(str(word) for word in (*question, storage) if word is not None)
            assert name.startswith(f"{prefix}-")
            tensors, metadata = read_safetensors(folder / name)
            assert not metadata
            scaled = {"scale"} if storage == "int8" else set()
            about_rows = {"rows"} if question[0] == "embedding" else {"rows", "counts"}
            assert {*tensors} == {"values"} | scaled | about_rows
            digests = [row_digest(ids) for ids in block["input_ids"].to_pylist()]
            assert [bytes(digest) for digest in tensors["rows"]] == digests
            lengths = block["length"].to_pylist()
            assert tensors.get("counts", np.array(lengths)).tolist() == lengths
            vectors = len(block) if question[0] == "embedding" else sum(lengths)
            assert tensors["values"].shape == (vectors, facts["widths"][prefix])
            read[question].append(decode(tensors, storage))
    cache = made.project.cache(storage, made.project.corpus("text"))
    needs = frozenset({EMBEDDING, Part("hidden", 0), Part("hidden", 2)})
    said = cache.read(np.arange(facts["rows"]), needs)
    assert np.array_equal(np.concatenate(read["embedding", None]), said[EMBEDDING].numpy())
    for layer in (0, 2):
        kept = np.concatenate(read["hidden", layer])
        assert np.array_equal(kept, said[Part("hidden", layer)].numpy())


def test_the_flat_layout_is_that_of_the_token_ids(made: Made) -> None:
    """Rows of equal ids, which lie in different blocks, have equal vectors."""
    folder = made.folder("caches", "fp32")
    files, blocks = read_manifest(folder)[0]["files"], read_blocks(made.folder("corpora", "text"))
    seen: dict[tuple[int, ...], Array] = {}
    for number, block in enumerate(blocks):
        hidden = read_safetensors(folder / files[number * 3 + 1]["name"])[0]["values"]
        starts = np.cumsum([0, *block["length"].to_pylist()])
        for row, ids in enumerate(block["input_ids"].to_pylist()):
            vectors = hidden[starts[row] : starts[row + 1]]
            assert len(vectors) == len(ids)
            assert np.allclose(seen.setdefault(tuple(ids), vectors), vectors, atol=1e-5)
    assert len(seen) == 61


def test_receipts_and_keys_of_the_store(made: Made) -> None:
    store = made.root / ".kdpipe" / "store"
    manifest, _ = read_manifest(made.folder("caches", "int8"))
    blocks = read_manifest(made.folder("corpora", "text"))[0]["facts"]["blocks"]
    facts = manifest["facts"]
    names = []
    for number, file in enumerate(manifest["files"]):
        question = {
            "teacher": facts["teacher"],
            "tokenizer": facts["tokenizer"],
            "prompt_tokens": 0,
            "tokens": blocks[number // 3]["tokens_digest"],
            "dtype": facts["dtype"],
            "ask": facts["questions"][number % 3],
        }
        key = hashlib.sha256(canonical({"format": 3, **question})).hexdigest()
        place = store / key[:2] / key
        assert file["name"].endswith(f"-{key[:32]}.safetensors")
        receipt = read_sealed(place.with_suffix(".json"))
        assert place.with_suffix(".json").read_bytes().startswith(canonical(receipt)[:-1])
        assert {*receipt} == {"format", "question", "made_by", "bytes", "digest"}
        assert (receipt["format"], receipt["question"]) == (3, question)
        assert (receipt["bytes"], receipt["digest"]) == (file["bytes"], file["digest"])
        shard = made.folder("caches", "int8", file["name"])
        assert shard.samefile(place.with_suffix(".safetensors"))
        names.append(file["name"])
    # The text stands there twice, so some blocks have the same tokens and share their files.
    assert len({*names}) < len(names)
    (probe,) = store.glob("teacher-*.json")
    known = {"classes", "difference", "embedding_width", "heads", "hidden_width", "layers"}
    assert read_sealed(probe) == {
        key: facts[key] for key in known | {"problem", "relative", "vocabulary"}
    }


def test_what_is_kdpipes_own_in_a_student(made: Made) -> None:
    folder = made.folder("students", "s")
    manifest, _ = read_manifest(folder)
    story = json.loads((folder / "kdpipe.json").read_bytes())
    assert story["inputs"] == manifest["inputs"]
    assert {key: story["student"][key] for key in manifest["spec"]} == manifest["spec"]
    assert story["training"]["steps"] == manifest["facts"]["steps"] == 6
    lines = [line.split("\t") for line in (folder / "steps.tsv").read_text("utf-8").splitlines()]
    first = ["step", "epoch", "loss", "0-embedding", "1-hidden", "learning_rate", "grad_norm"]
    assert lines[0] == [*first, "tokens", "eval_loss", "eval_cosine"]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert [(row["step"], row["eval_loss"] != "") for row in rows] == [
        ("3", True),
        ("4", False),
        ("6", True),
    ]
    widths = (32, 32)
    best = read_safetensors(folder / "projections.safetensors")[0]
    shapes = {name: tensor.shape for name, tensor in best.items()}
    assert shapes == {"1-hidden.1.weight": widths, "1-hidden.1.bias": (32,)}
    assert manifest["facts"]["best_step"] == 3
    last = read_safetensors(folder / "last" / "projections.safetensors")[0]
    assert not np.array_equal(last["1-hidden.1.weight"], best["1-hidden.1.weight"])
    weights, metadata = read_safetensors(folder / "last" / "model.safetensors")
    assert metadata == {"format": "pt"}
    assert {*weights} == {*read_safetensors(folder / "model.safetensors")[0]}


def test_checkpoints(made: Made, tmp_path: Path) -> None:
    project = made.project
    found = project.corpus("text")
    work = job.prepare(project, "s", found, {"fp32": project.cache("fp32", found)}, "cpu")
    for step in train.fit(work.run):
        work.log.add(step, full=True)
        checkpoint.save(tmp_path, work.run, vars(work.log))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000005", "step-00000006"]
    newest = tmp_path / "step-00000006"
    state = read_sealed(newest / "state.json")
    assert {*state} == {"progress", "scaler", "log", "digests"}
    assert {*state["digests"]} == {"weights", "optimizer", "best"}
    for name, digest in state["digests"].items():
        content = (newest / f"{name}.safetensors").read_bytes()
        assert digest == f"xxh3_128:{xxhash.xxh3_128_hexdigest(content)}"
    assert state["progress"]["step"] == 6


def test_the_same_bytes_in_another_folder_at_another_time(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    again = make(tmp_path)
    files = [p for p in made.folder().rglob("*") if p.is_file()]
    for path in files:
        other = again.folder() / path.relative_to(made.folder())
        assert other.read_bytes() == path.read_bytes(), path
        assert str(made.root).encode() not in path.read_bytes()


def test_the_page_names_every_key_and_column(made: Made) -> None:
    words: set[str] = set()
    for folder in (("corpora", "pairs"), ("caches", "int8"), ("students", "s")):
        manifest, _ = read_manifest(made.folder(*folder))
        names = {*manifest, *manifest["facts"], *manifest["inputs"], *manifest["files"][0]}
        words |= names - {"cache.fp32"}
        words |= {*manifest["facts"].get("blocks", [{}])[0]}
        words |= {*manifest["facts"].get("questions", [{}])[0]}
    for name in ("pairs", "words"):
        words |= {*read_blocks(made.folder("corpora", name))[-1].schema.names}
    words |= {name for name in (made.folder("students", "s") / "steps.tsv").read_text().split()[:8]}
    words -= {"0-embedding", "1-hidden"}
    missing = {word for word in words if f"`{word}`" not in PAGE and f'"{word}"' not in PAGE}
    assert not missing


def damaged(manifest: bytes, old: str, new: str) -> bytes:
    """Other content, with the digest that belongs to it."""
    text = manifest.rpartition(b',\n"sha256"')[0].decode()
    assert old in text
    return records.seal((text.replace(old, new, 1) + "}").encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: damaged(data, '"version": 2', '"version": 3'),
            "has version 3 of kdpipe.corpus, this kdpipe reads version 2: update kdpipe",
        ),
        (lambda data: damaged(data, "kdpipe.corpus", "kdpipe.cache"), "is a kdpipe.cache, not a"),
        (lambda data: damaged(data, '"rows"', '"tokens"'), "a key stands twice"),
        (lambda data: damaged(data, '"held_out": ', '"held_out": NaN, "x": '), "NaN is not JSON"),
        (lambda data: damaged(data, '"name": "block', '"name": "../block'), "files and blocks"),
        (
            lambda data: damaged(data, '"files": [\n  {', '"files": [{"name": "../a"}, {'),
            "is damaged",
        ),
        (
            lambda data: damaged(data, '"version": 2', '"version": 1'),
            "has version 1 of kdpipe.corpus, this kdpipe reads version 2: run 'kdpipe tokenize'",
        ),
        (lambda data: data.replace(b'"rows": 20', b'"rows": 21'), "its digest differs"),
        (lambda data: data.rpartition(b",")[0] + b"}", "it has no digest"),
        (lambda data: data + b" " * artifact.MAX_BYTES, "bytes is more than"),
        (lambda data: damaged(data, '"rows"', '"lines"'), "validation error"),
    ],
)
def test_the_library_refuses_what_the_page_says(
    made: Made, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    data = (made.folder("corpora", "pairs") / "manifest.json").read_bytes()
    (tmp_path / "manifest.json").write_bytes(change(data))
    with pytest.raises(ArtifactError, match=message):
        corpus.open_corpus(tmp_path)
