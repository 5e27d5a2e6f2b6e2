"""A reader of kdpipe's files made from docs/formats.md alone: nothing of kdpipe is imported here.

Legend: V vectors, D width.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc
import xxhash

Json = dict[str, Any]
Array = npt.NDArray[Any]

VERSIONS = {"kdpipe.corpus": 2, "kdpipe.cache": 4, "kdpipe.student": 2}
TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1", "I32": "<i4"}


def read_sealed(path: Path) -> Json:
    """A record whose last key is the digest of all that stands before it."""
    body, comma, _ = (data := path.read_bytes()).rpartition(b',\n"sha256": "')
    record: Json = json.loads(data)
    assert comma
    assert record.pop("sha256") == hashlib.sha256(body).hexdigest()
    return record


def read_manifest(folder: Path) -> tuple[Json, str]:
    """The manifest and the digest of the artifact, after every file was held against it."""
    data = (folder / "manifest.json").read_bytes()
    manifest = read_sealed(folder / "manifest.json")
    assert [*manifest] == ["format", "version", "spec", "inputs", "facts", "files"]
    assert manifest["version"] == VERSIONS[manifest["format"]]
    for file in manifest["files"]:
        algorithm, _, digest = file["digest"].partition(":")
        content = (folder / file["name"]).read_bytes()
        found = {
            "xxh3_128": lambda content=content: xxhash.xxh3_128_hexdigest(content),
            "sha256": lambda content=content: hashlib.sha256(content).hexdigest(),
        }[algorithm]()
        assert (len(content), found) == (file["bytes"], digest), file["name"]
    return manifest, hashlib.sha256(data).hexdigest()


def read_blocks(folder: Path) -> list[pa.Table]:
    """The blocks of a corpus in their order, one record batch each."""
    blocks = []
    for file in read_manifest(folder)[0]["files"]:
        reader = pa.ipc.open_file(pa.BufferReader((folder / file["name"]).read_bytes()))
        assert reader.num_record_batches == 1
        blocks.append(reader.read_all())
    return blocks


def read_safetensors(path: Path) -> tuple[dict[str, Array], Json]:
    """Tensors by name, bf16 as its bits; and the metadata."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, tensor in header.items():
        start, end = tensor["data_offsets"]
        values = np.frombuffer(data[8 + size :][start:end], TYPES[tensor["dtype"]])
        tensors[name] = values.reshape(tensor["shape"])
    return tensors, metadata


def decode(tensors: dict[str, Array], storage: str) -> Array:
    """[V, D] fp32."""
    values = tensors["values"]
    if storage == "bf16":
        return (values.astype("<u4") << 16).view("<f4")
    if storage == "int8":
        return values.astype("<f4") * tensors["scale"][:, None]
    return values.astype("<f4")


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def tokens_digest(*arrays: list[int]) -> str:
    packed = [struct.pack(f"<{1 + len(array)}q", len(array), *array) for array in arrays]
    return hashlib.sha256(b"".join(packed)).hexdigest()


def row_digest(ids: list[int], second_at: int | None = None) -> bytes:
    """What a shard calls a row that has no masks, and whose tokens are no whole words."""
    second = len(ids) if second_at is None else second_at
    return hashlib.blake2b(struct.pack(f"<{len(ids) + 1}q", *ids, second), digest_size=16).digest()
