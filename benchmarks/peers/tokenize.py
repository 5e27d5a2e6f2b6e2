"""`datasets.map` tokenises a file of texts, one a line: text to an Arrow file.

python -m benchmarks.peers.tokenize FILE MODEL
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from datasets import load_dataset
from transformers import AutoTokenizer

from benchmarks.peers import serve


def main(file: str, folder: str) -> None:
    """With the tokenizer of a model's folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    own = Path(folder) / "sentence_bert_config.json"
    if own.exists():
        tokenizer.model_max_length = json.loads(own.read_text("utf-8"))["max_seq_length"]

    def tokens(batch: dict[str, list[str]]) -> Any:
        return tokenizer(batch["text"], truncation=True)

    def work() -> None:
        # A new folder: else a second time would find the first one's result.
        with tempfile.TemporaryDirectory() as fresh:
            texts = load_dataset("text", data_files=file, cache_dir=fresh, split="train")
            texts.map(tokens, batched=True, remove_columns=["text"])

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
