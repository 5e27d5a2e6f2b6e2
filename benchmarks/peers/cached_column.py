"""Reading the `label` column that sentence-transformers' examples cache, in random order.

    python -m benchmarks.peers.cached_column FOLDER ROWS WIDTH BATCH

The batches are those of its trainer: what a shuffling DataLoader and its collator make of a saved
dataset. There is no text in it, so nothing is tokenised.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from datasets import Dataset, load_from_disk
from sentence_transformers.base.data_collator import BaseDataCollator
from torch.utils.data import DataLoader

from benchmarks.peers import serve


def main(folder: str, rows: int, width: int, batch: int) -> None:
    """Read every row once; the dataset is made where there is none."""
    if not Path(folder).exists():
        make(folder, rows, width)
    collator = BaseDataCollator(preprocess_fn=lambda *_, **__: {})

    def work() -> None:
        labels = load_from_disk(folder)
        for ready in DataLoader(labels, batch_size=batch, shuffle=True, collate_fn=collator):
            assert ready["label"].shape[1] == width

    serve(work)


def make(folder: str, rows: int, width: int) -> None:
    """Save vectors as the examples do: lists of numbers in a column of `dataset.map`."""
    numbers = np.random.default_rng(0)

    def label(batch: dict[str, list[int]]) -> dict[str, list[list[float]]]:
        size = (len(batch["row"]), width)
        return {"label": numbers.standard_normal(size, dtype=np.float32).tolist()}

    empty = Dataset.from_dict({"row": range(rows)})
    empty.map(label, batched=True, remove_columns=["row"]).save_to_disk(folder)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
