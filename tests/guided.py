"""Fuzzing led by coverage: whatever is in a file, its reader ends well, or with an error of ours.

    python3 run.py fuzz [TARGET ...] [--seconds N]

`atheris` changes inputs, and goes on with those that reach lines of kdpipe which none has reached
before; they are kept in `.fuzz`. A find goes into `tests/found/TARGET`, and stays a test.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).parent
GOLDEN, FOUND = TESTS / "golden", TESTS / "found"
KEPT = TESTS.parent / ".fuzz"
LONGEST = 1 << 14
"""Bytes of an input."""


class Target(NamedTuple):
    """What reads bytes, and some that it reads well."""

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]


@functools.cache
def place(name: str) -> Path:
    """A folder of this process, a copy of one of golden's where that has such a name."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    kept = GOLDEN / name
    return Path(shutil.copytree(kept, folder / name)) if kept.is_dir() else folder


def put(path: Path, data: bytes) -> Path:
    """A new file, in place of one that a reader may have mapped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


def manifest(data: bytes) -> None:
    """A manifest with its digest right, and one without any."""
    from kdpipe import artifact, records

    for text in (records.seal(data), data):
        folder = put(place("manifest") / artifact.MANIFEST, text).parent
        with expected():
            artifact.open_any(folder, "make it again")
        for kind in artifact.VERSIONS:
            artifact.current(folder, kind, {}, {})
        artifact.digest_of(folder)


def look(data: bytes) -> None:
    """`kdpipe inspect` and `kdpipe verify` on artifacts whose manifest this is."""
    from kdpipe import records, verify
    from kdpipe.artifact import MANIFEST
    from kdpipe.inspection import inspect

    for kind in ("corpus", "cache", "student"):
        folder = put(place(kind) / MANIFEST, records.seal(data)).parent
        with expected():
            inspect(folder)
        with expected(), contextlib.redirect_stderr(io.StringIO()):
            _ = [one.line for one in verify.verify([folder])]


def receipt(data: bytes) -> None:
    """A receipt of the store, with its digest right, under the name that its question gives it."""
    from kdpipe import records, store_keeping
    from kdpipe.file_pages import page_of_receipt
    from kdpipe.store import Store, key_of

    store, key = Store(place("store")), "0" * 64
    with contextlib.suppress(Exception):
        key = key_of(json.loads(data)["question"])
    path = put(store.receipt_path(key), records.seal(data))
    put(store.path(key), b"1234567")
    store.find(key)
    store.intact(key)
    with expected():
        page_of_receipt(path)
    with expected():
        store_keeping.ledger(store, place("nothing"))
    store_keeping.verify(store)
    shutil.rmtree(path.parent)


def header(data: bytes) -> None:
    """A safetensors file."""
    from kdpipe.file_pages import page_of_tensors, rows_of_files
    from kdpipe.tensor_files import header

    path = put(place("header") / "x.safetensors", data)
    with expected():
        header(path, "make it again")
    with expected():
        page_of_tensors(path)
    with expected():
        rows_of_files([("x", path)])


def pipeline(data: bytes) -> None:
    """A pipeline file."""
    from kdpipe.pipeline import load_pipeline

    with expected():
        load_pipeline(put(place("pipeline") / "pipeline.yaml", data))


def model(data: bytes) -> None:
    """The small files of a model folder, by name, as one JSON object."""
    from kdpipe import hub, modules, tokenizer_file

    try:
        files = json.loads(data)
    except (ValueError, RecursionError):
        return
    folder = place("model") / "teacher"
    shutil.rmtree(folder, ignore_errors=True)
    put(folder / "model.safetensors", b"\2\0\0\0\0\0\0\0{}")
    for name in files if isinstance(files, dict) else []:
        if name in MODEL_FILES:
            put(folder / name, json.dumps(files[name]).encode())
    for read in (
        lambda: hub.find_model(str(folder)),
        lambda: modules.head_of(folder),
        lambda: modules.encoder_identity(folder, modules.head_of(folder)),
        lambda: modules.own_limit(folder),
        lambda: modules.default_prompt(folder),
        lambda: hub.weight_files(hub.find_model(str(folder))),
        lambda: tokenizer_file.try_out(folder),
    ):
        with expected():
            read()


MODEL_FILES = (
    *("config.json", "modules.json", "1_Pooling/config.json", "2_Dense/config.json"),
    *("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"),
    *("sentence_bert_config.json", "config_sentence_transformers.json"),
    "model.safetensors.index.json",
)


@contextlib.contextmanager
def expected() -> Iterator[None]:
    """Errors that a user is told about in one line."""
    from kdpipe.errors import explain

    try:
        yield
    except Exception as error:
        told = explain(error)
        if told is None or "\n" in str(told):
            raise


def manifests() -> list[bytes]:
    """Those of artifacts of today, without their digests."""
    found = []
    for path in sorted(GOLDEN.glob("*/manifest.json")):
        record = json.loads(path.read_bytes())
        del record["sha256"]
        found.append(json.dumps(record).encode())
    return found


def receipts() -> list[bytes]:
    """That of a shard which is there."""
    from kdpipe.io import digest_bytes

    ask = {"part": "embedding", "layer": None, "storage": "fp32"}
    question = {"teacher": "0" * 64, "tokens": "0" * 64, "dtype": "fp32", "ask": ask}
    told = {"bytes": 7, "digest": digest_bytes(b"1234567")}
    record = {"format": 3, "question": question, "made_by": {"device": "cpu"}} | told
    return [json.dumps(record).encode()]


def headers() -> list[bytes]:
    """Small files of golden artifacts."""
    paths = sorted(GOLDEN.glob("*/*.safetensors"))
    return [path.read_bytes() for path in paths if path.stat().st_size < LONGEST]


def pipelines() -> list[bytes]:
    """The recipes."""
    return [path.read_bytes() for path in sorted((TESTS.parent / "pipelines").rglob("*.yaml"))]


def models() -> list[bytes]:
    """The model folder of a golden student, without its words."""
    folder = GOLDEN / "student"
    files = {name: folder / name for name in MODEL_FILES if (folder / name).is_file()}
    found = {name: json.loads(path.read_bytes()) for name, path in files.items()}
    found["tokenizer.json"]["model"]["vocab"] = {"[UNK]": 0}
    index = {"weight_map": {"a": "model.safetensors"}}
    return [json.dumps(one).encode() for one in (found, {"model.safetensors.index.json": index})]


TARGETS = {
    "manifest": Target(manifest, manifests),
    "look": Target(look, manifests),
    "receipt": Target(receipt, receipts),
    "header": Target(header, headers),
    "pipeline": Target(pipeline, pipelines),
    "model": Target(model, models),
}


def changed(data: bytes, longest: int, seed: int, mutate: Callable[[bytes, int], bytes]) -> bytes:
    """Another input: its JSON with a few places changed, or some of its bytes."""
    from tests import fuzz

    dice = random.Random(seed)
    size = 8 + int.from_bytes(data[:8], "little")
    begin, end = (8, size) if data[8:9] == b"{" and size <= len(data) else (0, len(data))
    try:
        record: Any = json.loads(data[begin:end]) if dice.randrange(4) else None
    except (ValueError, RecursionError):
        record = None
    if record is None:
        return mutate(data, longest)
    text = json.dumps(fuzz.mutated(dice, record)).encode()
    head = len(text).to_bytes(8, "little") if begin else b""
    return (head + text + data[end:])[:longest]


def run(name: str, seconds: int) -> None:
    """Try inputs on a target; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["kdpipe"]):
        for module in ("inspection", "pipeline", "store_keeping", "tokenizer_file", "verify"):
            importlib.import_module(f"kdpipe.{module}")
    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds()):
        (kept / f"seed-{number}").write_bytes(seed)

    def change(data: bytes, longest: int, seed: int) -> bytes:
        return changed(data, longest, seed, atheris.Mutate)

    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=10"]
    options += ["-rss_limit_mb=4096", f"-artifact_prefix={KEPT}/{name}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(kept)], TARGETS[name].read, custom_mutator=change)
    atheris.Fuzz()


def main(arguments: list[str]) -> int:
    """Each target in a process of its own; 1 where one has a find."""
    parser = argparse.ArgumentParser(prog="run.py fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if unknown := set(asked.targets) - TARGETS.keys():
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    if asked.here:
        run(asked.targets[0], asked.seconds)
    codes = []
    for name in asked.targets or TARGETS:
        words = [sys.executable, "-m", "tests.guided", name, "--here"]
        words += ["--seconds", str(asked.seconds)]
        codes.append(subprocess.run(words, check=False).returncode)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
