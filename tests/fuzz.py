"""Hostile inputs, each from its seed: JSON, YAML, Arrow, safetensors, tokenizers, model folders."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdpipe import artifact, records

Json = Any
STRINGS = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "x" * 300,
    "\u0000",
    "\ud800",
]
STRINGS += [
    "kdpipe.corpus",
    "kdpipe.cache",
    "xxh3_128:" + "0" * 32,
    "sha256:00",
    "nan",
    "{}",
    "\u2603",
]
NUMBERS: list[Json] = [
    0,
    1,
    -1,
    2**31,
    2**63,
    -(2**63),
    2**64,
    10**400,
    0.5,
    -0.0,
    1e308,
    True,
    None,
]
KEYS = ["auto_map", "_attn_implementation_internal", "_experts_implementation_internal"]
KEYS += ["trust_remote_code", "attn_implementation", "quantization_config", "transformers_weights"]
KEYS += [
    "model_type",
    "architectures",
    "num_hidden_layers",
    "hidden_size",
    "vocab_size",
    "id2label",
]
KEYS += ["tokenizer_class", "added_tokens_decoder", "max_position_embeddings", "format", "version"]


def value(dice: random.Random, depth: int = 0) -> Json:
    """Any JSON."""
    kind = dice.randrange(8 if depth < 3 else 5)
    if kind < 2:
        return dice.choice(NUMBERS)
    if kind < 4:
        return dice.choice(STRINGS + KEYS)
    if kind == 4:
        return dice.choice(["user/kernel:fn", "mine.py--Mine", "eager", "flash", [], {}])
    if kind == 5:
        return [value(dice, depth + 1) for _ in range(dice.randrange(4))]
    return {dice.choice(STRINGS + KEYS): value(dice, depth + 1) for _ in range(dice.randrange(4))}


def mutated(dice: random.Random, record: Json) -> Json:
    """The same JSON with a few places changed, taken out or put in."""
    record = json.loads(json.dumps(record))
    for _ in range(dice.choice([1, 1, 2, 5])):
        places = [*_places(record)]
        if not places:
            return value(dice)
        container, key = dice.choice(places)
        action = dice.randrange(5)
        if action == 0:
            del container[key]
        elif action == 1 and isinstance(container, dict):
            container[dice.choice(STRINGS + KEYS)] = value(dice)
        elif action == 2:
            other, there = dice.choice(places)
            container[key] = json.loads(json.dumps(other[there]))
        elif (
            action == 3 and isinstance(container[key], int | float) and abs(container[key]) < 2**64
        ):
            container[key] = container[key] + dice.choice([-1, 1, 1000, -(10**6), 0.5])
        else:
            container[key] = value(dice)
    return record


def _places(record: Json) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    keys = (
        range(len(record))
        if isinstance(record, list)
        else list(record)
        if isinstance(record, dict)
        else []
    )
    for key in keys:
        found += [(record, key), *_places(record[key])]
    return found


def bytes_of(dice: random.Random, data: bytes) -> bytes:
    """Some bytes changed, cut, doubled or put in."""
    changed = bytearray(data)
    for _ in range(dice.choice([1, 1, 4, 30])):
        place = dice.randrange(len(changed) + 1)
        action = dice.randrange(5)
        if action == 0:
            changed[place : place + 1] = dice.randbytes(1)
        elif action == 1:
            del changed[place : place + dice.choice([1, 8, 100])]
        elif action == 2:
            changed[place:place] = changed[place : place + dice.choice([1, 8, 100])]
        elif action == 3:
            changed[place : place + 8] = dice.choice(
                [b"\xff" * 8, b"\0" * 8, (2**62).to_bytes(8, "little")]
            )
        else:
            changed[place:place] = dice.choice(
                [b"{", b"[" * 1000, b"NaN", b'"', b"\n", b",", b"\xff", b"&a"]
            )
    return bytes(changed)


JSON_TEXTS = [
    b"",
    b"[]",
    b"null",
    b"{}",
    b"{" * 100_000,
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\xff\xfe",
    b"\0",
    b'{"format":"kdpipe.corpus","format":"kdpipe.corpus"}',
    b'{"version": NaN}',
    b'{"version": 1e999}',
    b'{"version": ' + b"9" * 10_000 + b"}",
    b'{"format": "\\ud800"}',
    b'"' + b"x" * 1_000_000 + b'"',
]
YAML_TEXTS = [
    b"",
    b"[" * 100_000,
    b"- " * 3000,
    b"a: &a [*a, *a]\n",
    b"a: !!python/object/apply:os.system [id]\n",
    b"a: " + b"1" * 10_000,
    b"a: .nan\nb: 1e999\n",
    b"a: 1\na: 2\n",
    b"a: !!bool x\n",
    b"a: !!binary '*'\n",
    b"a: 2001-99-99\n",
    b"%YAML 9.1\n---\na: 1\n",
    b"\xff",
    b"a: \0",
    b"a: !!int x\n",
    b"? [a]\n: b\n",
    b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(12)
    ),
    b"corpora:\n" + b"- x\n" * 60_000,
    b"corpora: {x: {trust_remote_code: true}}\n",
    b"trust_remote_code: true\n",
]


class Bomb:
    """A pickle that would leave a trace."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch hostile-code-ran",)


def header(dice: random.Random, tensors: Json) -> bytes:
    """A safetensors file whose header is a lie."""
    text = json.dumps(tensors).encode()
    action = dice.randrange(10)
    if action == 0:
        text = text[:-1] + b"," + text[1:]
    elif action == 1:
        text = json.dumps(
            {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(30_000)}
        ).encode()
    elif action == 2:
        return pickle.dumps(Bomb())
    elif action == 3:
        return (2**63).to_bytes(8, "little") + text
    elif action == 4:
        return (90_000_000).to_bytes(8, "little") + text + bytes(1000)
    elif action == 5:
        text = b"[" * 5000
    elif action == 6:
        text = b'{"values": 3, "values": 4}'
    else:
        text = json.dumps(mutated(dice, tensors)).encode()
    return len(text).to_bytes(8, "little") + text + dice.randbytes(dice.choice([0, 10, 1000]))


def table(dice: random.Random, data: bytes) -> bytes:
    """An Arrow file that is well formed, and not what it should be."""
    found = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    name = dice.choice(found.column_names)
    place, column = found.column_names.index(name), found.column(name)
    action = dice.randrange(7)
    compression = None
    if action == 0:
        found = found.remove_column(place)
    elif action == 1:
        found = found.append_column(name, column)
    elif action == 2:
        found = found.set_column(place, name, pa.nulls(len(found), column.type))
    elif action == 3:
        rows = [dice.randrange(len(found)) for _ in range(dice.choice([0, 1, len(found) * 2]))]
        found = found.take(pa.array(rows, pa.int64()))
    elif action == 4:
        compression = dice.choice(["zstd", "lz4"])
    elif action == 5:
        values = [dice.choice([-1, 0, 2**30, 65535]) for _ in range(len(found))]
        found = found.set_column(place, name, pa.array(values))
    else:
        lists = [
            [dice.choice([0, 65_535, 7])] * dice.choice([0, 1, 300]) for _ in range(len(found))
        ]
        place = found.column_names.index("input_ids")
        kind = found.schema.field("input_ids").type
        found = found.set_column(place, found.schema.field("input_ids"), pa.array(lists, kind))
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(sink, found.schema, options=options) as writer:
        writer.write_table(found, max_chunksize=dice.choice([1, 10**6]))
    return sink.getvalue()


def reseal(folder: Path, name: str) -> None:
    """A manifest that vouches for a file as it is now."""
    path = folder / artifact.MANIFEST
    manifest = records.read_sealed(path)
    for file in manifest["files"]:
        if file["name"] == name:
            algorithm = file["digest"].partition(":")[0]
            file.update(artifact.part(folder, name, algorithm).identity())
    path.write_bytes(records.seal(json.dumps(manifest).encode()))


def odd_file(dice: random.Random, path: Path, outside: Path) -> None:
    """Something else than a file of its own at `path`."""
    data = path.read_bytes() if path.is_file() else b"{}"
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    outside.write_bytes(data)
    actions: list[Callable[[], object]] = [
        lambda: os.mkfifo(path),
        path.mkdir,
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to("/dev/tty"),
        lambda: path.symlink_to(path.name),
        lambda: path.symlink_to("/nowhere/at/all"),
        lambda: path.symlink_to(outside.absolute()),
        lambda: path.write_bytes(b""),
    ]
    dice.choice(actions)()
