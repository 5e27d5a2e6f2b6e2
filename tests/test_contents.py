"""What is in files and does not fit its manifest is found, though every digest fits."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save

from kdpipe import inspection, io, records
from kdpipe.blocks import encode_block, read_table
from kdpipe.corpus import tokens_digest
from kdpipe.errors import KdpipeError
from tests.conftest import Figure
from tests.sealed import (
    ALL,
    CACHE,
    CORPUS,
    STUDENT,
    TEACHER,
    TEXT,
    TEXTS,
    TOKENIZE,
    TRAIN,
    alone,
    first,
    found,
    record_of,
    seal,
    write,
)


def forged_block(path: Path, **columns: Callable[[Any], Any]) -> None:
    """Change columns of a block."""
    table = read_table(path)
    for name, change in columns.items():
        field = table.schema.field(name)
        values = pa.array(change(table[name].to_pylist()), field.type)
        table = table.set_column(table.column_names.index(name), field, values)
    write(path, encode_block(table.combine_chunks()))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"row": lambda rows: rows[::-1]}, "other row numbers than 0 and on"),
        ({"length": lambda rows: [*rows[:-1], 1]}, "lengths beyond what there is"),
        (
            {"input_ids": lambda rows: [[9999] * len(row) for row in rows]},
            "token ids beyond what there is",
        ),
        (
            {"input_ids": lambda rows: [row[::-1] for row in rows]},
            ": tokens_digest is {tokens_digest}, the manifest says {said}",
        ),
    ],
)
def test_a_forged_block(whole: Path, change: Any, line: str) -> None:
    path, facts = first(CORPUS), record_of(CORPUS)["facts"]
    forged_block(path, **change)
    seal(CORPUS)
    ids = [np.asarray(ids, "<i8") for ids in read_table(path)["input_ids"].to_pylist()]
    lengths = np.asarray([len(row) for row in ids], "<i8")
    names = {
        "tokens_digest": tokens_digest(np.concatenate(ids), lengths, None, None),
        "said": facts["blocks"][0]["tokens_digest"],
    }
    wrong = line.format(**names)
    colon = wrong.startswith(":")
    wrong = wrong if colon else f" is not a corpus block ({wrong})"
    lines = alone(CORPUS)
    assert f"{path}{wrong}: {TOKENIZE}" in lines
    if colon:
        # A block is called by its digest.
        name = f"block-{io.digest_file(path)[9:25]}.arrow"
        assert f"{path}: name is {name}, the manifest says {path.name}: {TOKENIZE}" in lines


def test_a_corpus_by_words_that_has_none(whole: Path) -> None:
    seal(CORPUS, lambda record: record["facts"].update(by_words=True))
    wrong = "is not a corpus block (no words, which its tokens should be)"
    assert f"{first(CORPUS)} {wrong}: {TOKENIZE}" in alone(CORPUS)


def test_a_block_of_other_columns(whole: Path) -> None:
    path = first(CORPUS)
    table = read_table(path)
    write(path, encode_block(table.drop_columns(["held_out"])))
    seal(CORPUS)
    wrong = "other columns than a block has"
    assert alone(CORPUS) == [f"{path} is not a corpus block ({wrong}): {TOKENIZE}"]
    write(path, b"no Arrow at all")
    seal(CORPUS)
    (line,) = alone(CORPUS)
    assert line.startswith(f"{path} is not a corpus block (")


@pytest.mark.parametrize("key", ["rows", "tokens", "masked", "held_out", "longest"])
def test_facts_of_a_corpus_that_are_not_so(whole: Path, key: str) -> None:
    true = record_of(CORPUS)["facts"][key]
    seal(CORPUS, lambda record: record["facts"].update({key: true + 1}))
    line = f"{CORPUS}: {key} is {true}, the manifest says {true + 1}: {TOKENIZE}"
    assert alone(CORPUS) == [line]


@pytest.mark.parametrize("key", ["rows", "tokens", "masked", "first_row", "tokens_digest"])
def test_facts_of_a_block_that_are_not_so(whole: Path, key: str) -> None:
    path = first(CORPUS)
    true = record_of(CORPUS)["facts"]["blocks"][0][key]
    other = "0" * 64 if key == "tokens_digest" else true + 1
    seal(CORPUS, lambda record: record["facts"]["blocks"][0].update({key: other}))
    lines = alone(CORPUS)
    wanted = f"{path}: {key} is {true}, the manifest says {other}: {TOKENIZE}"
    if key == "first_row":
        wanted = f"{path} is not a corpus block (other row numbers than 1 and on): {TOKENIZE}"
    assert wanted in lines


def forged_shard(path: Path, **tensors: Any) -> None:
    write(path, save({**load_file(path), **tensors}))


def test_forged_shards(whole: Path) -> None:
    record = record_of(CACHE)
    a, b = (CACHE / record["files"][place]["name"] for place in (0, 1))
    good = {path: path.read_bytes() for path in (a, b)}
    shape = load_file(a)["values"].shape
    vectors = f"rows U8 [{shape[0]}, 16], scale F32 [{shape[0]}]"
    wanted = f"{vectors}, values I8 {[*shape]}"
    cases = {
        f"{a} has {vectors}, values F16 {[*shape]} in place of {wanted}: {TEACHER}": {
            "values": np.zeros(shape, np.float16)
        },
        f"{a} has {vectors}, values I8 {[shape[0], 4]} in place of {wanted}: {TEACHER}": {
            "values": np.zeros((shape[0], 4), np.int8)
        },
        f"{a} has rows U8 [{shape[0]}, 16], scale F32 [1], values I8 {[1, shape[1]]} in place of"
        f" {wanted}: {TEACHER}": {
            "values": np.zeros((1, shape[1]), np.int8),
            "scale": np.ones(1, np.float32),
        },
        f"{a} is about other rows than those of its block: {TEACHER}": {
            "rows": np.roll(load_file(a)["rows"], 1, axis=0)
        },
        f"{a}: NaN or Inf in 3 numbers of scale: {TEACHER}": {
            "scale": np.where(np.arange(shape[0]) < 3, np.nan, 1).astype(np.float32)
        },
    }
    for line, tensors in cases.items():
        forged_shard(a, **tensors)
        seal(CACHE)
        assert found(CACHE) == {CACHE: [line]}
        write(a, good[a])
    # Two shards that were swapped, under names that fit.
    write(a, good[b])
    write(b, good[a])
    seal(CACHE)
    counts = {path: load_file(path)["values"].shape[0] for path in (a, b)}
    assert counts[a] != counts[b]
    assert [line.partition(" has ")[0] for line in found(CACHE)[CACHE]] == [str(a), str(b)]
    write(a, good[a])
    write(b, good[b])
    # In the manifest alone.
    seal(CACHE, lambda record: record["files"].insert(0, record["files"].pop(1)))
    assert found(CACHE)[CACHE] == [
        f"{b} stands where {a.name} should: {TEACHER}",
        f"{a} stands where {b.name} should: {TEACHER}",
    ]


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("tokenizer", "f" * 64, "{0}: tokenizer is {1}, the manifest says {2}: {3}"),
        ("rows", 1, "{0}: rows is {1}, the manifest says {2}: {3}"),
        ("teacher", "f" * 64, "{0}: teacher is {2}, the manifest says {1}: {3}"),
        ("dtype", "bf16", "{0}: dtype is {2}, the manifest says {1}: {3}"),
    ],
)
def test_facts_of_a_cache_that_are_not_so(whole: Path, key: str, value: Any, line: str) -> None:
    true = record_of(CACHE)["facts"][key]
    seal(CACHE, lambda record: record["facts"].update({key: value}))
    assert found(CACHE)[CACHE][0] == line.format(CACHE, true, value, TEACHER)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"questions": [], "widths": {}}, "questions, Tuple should have at least 1 item"),
        ({"widths": {}}, "Value error, widths of other questions than there are"),
    ],
)
def test_facts_that_are_not_those_of_a_cache(whole: Path, keys: Any, reason: str) -> None:
    seal(CACHE, lambda record: record["facts"].update(keys))
    (line,) = found(CACHE)[CACHE]
    assert line.startswith(f"{CACHE}/manifest.json has other facts than a kdpipe.cache ({reason}")
    assert line.endswith(f": {TEACHER}")


def test_a_width_that_is_not_that_of_the_shards(whole: Path) -> None:
    (name,) = record_of(CACHE)["facts"]["widths"]
    seal(CACHE, lambda record: record["facts"]["widths"].update({name: 7}))
    lines = found(CACHE)[CACHE]
    assert len(lines) == len({part["name"] for part in record_of(CACHE)["files"]})
    assert all(", 7]" in line.partition(" in place of ")[2] for line in lines)


def test_a_shard_that_is_missing_in_the_list(whole: Path) -> None:
    count = len(record_of(CACHE)["files"])
    gone = CACHE / record_of(CACHE)["files"][-1]["name"]
    seal(CACHE, lambda record: record["files"].pop())
    assert found(CACHE)[CACHE] == [
        f"{CACHE}: number of files is {count}, the manifest says {count - 1}: {TEACHER}",
        f"{gone} is not in the manifest: delete it",
    ]


def test_forged_students_and_texts(whole: Path) -> None:
    path = STUDENT / "model.safetensors"
    weights = load_file(path)
    name = min(weights)
    weights[name].flat[0] = np.inf
    write(path, save(weights))
    story = STUDENT / "kdpipe.json"
    record = json.loads(story.read_text())
    inputs = record["inputs"]
    write(story, json.dumps({**record, "inputs": {}}).encode())
    seal(STUDENT)
    assert found(STUDENT)[STUDENT] == [
        f"{story}: inputs is {{}}, the manifest says {inputs}: {TRAIN}",
        f"{path}: NaN or Inf in 1 number of {name}: {TRAIN}",
    ]
    seal(STUDENT, lambda record: record.update(files=[]))
    assert alone(STUDENT)[:3] == [
        f"{STUDENT / name} is not in the manifest, and no student is without: {TRAIN}"
        for name in ("config.json", "kdpipe.json", "model.safetensors")
    ]
    path = first(TEXTS)
    count = record_of(TEXTS)["facts"]["texts"]
    lines = path.read_bytes().splitlines(keepends=True)
    write(path, b"".join(lines[1:]))
    seal(TEXTS)
    wanted = [f"{TEXTS}: texts is {count - 1}, the manifest says {count}: {TEXT}"]
    assert alone(TEXTS) == wanted
    write(path, b"".join([lines[0], b"{\n", *lines[2:]]))
    seal(TEXTS)
    assert alone(TEXTS) == [f"{path}:2 is not JSON: {TEXT}"]


WEIRD = [None, True, -1, 0, 10**12, 1.5, "", "x", "0" * 64, "../x", [], {}, [[]], {"a": 1}]


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a record: what holds it, and its key there."""
    for key in [*value] if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from leaves(value[key])


def test_whatever_a_sealed_manifest_says_there_is_no_traceback(
    whole: Path, long: bool, figure: Figure
) -> None:
    seed = 11
    draw, trials = random.Random(seed), 4000 if long else 120
    for trial in range(trials):
        folder = draw.choice(ALL)
        path = folder / "manifest.json"
        before, record = path.read_bytes(), record_of(folder)
        place, key = draw.choice([*leaves(record)])
        place[key] = value = draw.choice(WEIRD)
        write(path, records.seal(json.dumps(record).encode()))
        for look in (found, inspection.inspect):
            try:
                look(folder)
            except KdpipeError:
                continue
            except Exception as error:
                raise AssertionError((seed, trial, folder, key, value)) from error
        write(path, before)
    figure(f"{trials} wrong values in sealed manifests, no traceback")
