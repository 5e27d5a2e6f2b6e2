"""Caching a teacher as sentence-transformers' examples do: `dataset.map(encode)`, saved to disk.

python -m benchmarks.peers.encode_map FILE MODEL
"""

from __future__ import annotations

import sys
import tempfile

from datasets import load_dataset
from sentence_transformers import SentenceTransformer

from benchmarks.peers import serve


def main(file: str, folder: str) -> None:
    """With the model of a folder, about the texts of a file, one a line."""
    teacher = SentenceTransformer(folder, device="cpu")

    def label(batch: dict[str, list[str]]) -> dict[str, list[list[float]]]:
        vectors = teacher.encode(batch["sentence"], batch_size=64, show_progress_bar=False)
        return {"label": vectors.tolist()}

    def work() -> None:
        # A new folder: else a second time would find the first one's result.
        with tempfile.TemporaryDirectory() as fresh:
            texts = load_dataset("text", data_files=file, cache_dir=fresh, split="train")
            texts = texts.rename_column("text", "sentence")
            texts.map(label, batched=True, batch_size=50_000).save_to_disk(f"{fresh}/labelled")

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
