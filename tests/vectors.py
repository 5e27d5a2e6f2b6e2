"""Vectors of a user's own in files of every format, and the project that they are imported into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from kdpipe import fill_blocks
from kdpipe.cache import Cache
from kdpipe.project import open_project
from tests.ends import Capture, command, fails
from tests.pieces import sentences, write_text
from tests.tiny import tiny_teacher_folder

FILE = Path("p.yaml")
ROWS, WIDTH = 40, 6
TEXTS = sentences(ROWS)
VECTORS = np.random.default_rng(3).standard_normal((ROWS, WIDTH)).astype(np.float32)
LOGIT = VECTORS[:, :3]
ORDER = np.random.default_rng(4).permutation(ROWS)
HEAD = """\
corpora:
  text:
    sources: [{kind: files, files: [text.txt]}]
    tokenizer: teacher
    max_seq_length: 32
    validation: 0.2
"""
SHAPE = (
    "{kind: shape, num_hidden_layers: 1, hidden_size: 32, num_attention_heads: 4,"
    " intermediate_size: 32, hidden_dropout_prob: 0.0}"
)
TRAIN = "{max_steps: 4, tokens_per_batch: 256, bf16: false}"
FP32 = "part: embedding, storage: fp32"
NPY = "part: embedding, file: v.npy"
CORPUS = "artifacts/corpora/text"


def begun(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """A project in `root` with text, a model whose tokenizer reads it, and small blocks."""
    patch.setattr(fill_blocks, "SMALLEST", 20)
    patch.setattr(fill_blocks, "SPREAD", 100)
    patch.setenv("KDPIPE_DEVICE", "cpu")
    write_text(root / "text.txt", TEXTS)
    tiny_teacher_folder(root / "teacher")
    return root


def pipeline(files: str, rest: str = "", head: str = HEAD) -> None:
    """Write the pipeline file: a cache `mine` of some files, and other sections."""
    FILE.write_text(f"{head}caches:\n  mine: {{corpus: text, files: [{files}]}}\n{rest}")


def run(*stages: str) -> None:
    for stage in stages:
        command([stage, str(FILE)])


def made() -> Cache:
    """The cache `mine`, open."""
    project = open_project(FILE)
    return project.cache("mine", project.corpus("text"))


def bytes_of(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def lists(vectors: np.ndarray, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(vectors.tolist(), kind or pa.list_(pa.float32()))


def write_table(path: str, **columns: Any) -> None:
    """A table in the format that the name says, in several batches."""
    table = pa.table(columns)
    if path.endswith(".parquet"):
        pa.parquet.write_table(table, path, row_group_size=7)
        return
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=9)


def write_npy() -> str:
    np.save("v.npy", VECTORS)
    return f"{{{FP32}, file: v.npy}}"


def write_fortran_npy() -> str:
    np.save("v.npy", np.asfortranarray(VECTORS.astype(np.float64)))
    return f"{{{FP32}, file: v.npy}}"


def write_safetensors() -> str:
    save_file({"values": torch.from_numpy(VECTORS)}, "v.safetensors")
    return f"{{{FP32}, file: v.safetensors}}"


def write_safetensors_of_rows() -> str:
    values = {"values": torch.from_numpy(VECTORS[ORDER]), "rows": torch.from_numpy(ORDER)}
    save_file(values, "v.safetensors")
    return f"{{{FP32}, file: v.safetensors}}"


def write_parquet() -> str:
    write_table("v.parquet", values=lists(VECTORS))
    return f"{{{FP32}, file: v.parquet}}"


def write_parquet_of_rows() -> str:
    write_table("v.parquet", row=ORDER, vector=lists(VECTORS[ORDER], pa.list_(pa.float64(), WIDTH)))
    return f"{{{FP32}, file: v.parquet, id_column: row, value_column: vector}}"


def write_arrow_of_texts() -> str:
    # Other texts, blank ones, and texts again with other vectors, of which the first count.
    again = (TEXTS[ORDER[0]], TEXTS[ORDER[-1]])
    texts = ["nobody's", None, *(TEXTS[row] for row in ORDER), *again, " "]
    values = np.concatenate([VECTORS[:2], VECTORS[ORDER], -VECTORS[:3]])
    write_table("v.arrow", text=texts, values=lists(values, pa.large_list(pa.float32())))
    return f"{{{FP32}, file: v.arrow, text_column: text}}"


def refused(capsys: Capture, files: str, code: int = 3, head: str = HEAD) -> str:
    """The message with which the import ends; nothing of the cache is there then."""
    pipeline(files, head=head)
    run("tokenize")
    capsys.readouterr()
    line = fails(capsys, ["cache-teacher", str(FILE)], code)
    assert not Path("artifacts/caches/mine").exists()
    return line
