"""TextBrewer's `GeneralDistiller`: the teacher runs in every step, on rows in random order.

    python -m benchmarks.peers.general_distiller FILE MODEL OUT LAYERS EPOCHS BATCH

Texts are tokenised once. A batch is padded to its longest row, where TextBrewer's examples pad all
rows to the greatest length that there may be.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

from benchmarks.peers import serve
from benchmarks.peers.second import RATE, Asked, asked

_MATCH = {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1}


class Sentences(nn.Module):
    """A sentence encoder that is called as a transformer is."""

    def __init__(self, encoder: SentenceTransformer) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, D]: embeddings of `[B, T]` tokens."""
        said = self.encoder({"input_ids": input_ids, "attention_mask": attention_mask})
        vectors: Tensor = said["sentence_embedding"]
        return vectors


def adaptor(batch: Any, vectors: Tensor) -> dict[str, list[Tensor]]:
    """What TextBrewer compares."""
    return {"hidden": [vectors]}


def train(job: Asked, texts: list[str]) -> None:
    """One student, saved in `job.out`."""
    teacher, student = job.teacher(), job.student()
    tokenizer, limit = student.tokenizer, student.max_seq_length
    rows = tokenizer(texts, truncation=True, max_length=limit, return_token_type_ids=False)

    def collate(numbers: list[int]) -> dict[str, Tensor]:
        chosen = {key: [values[number] for number in numbers] for key, values in rows.items()}
        return dict(tokenizer.pad(chosen, return_tensors="pt"))

    batches = DataLoader[int](
        range(len(texts)),  # type: ignore[arg-type] # it has a length and gives items by number
        batch_size=job.batch,
        shuffle=True,
        collate_fn=collate,
    )
    steps = job.epochs * len(batches)
    with tempfile.TemporaryDirectory() as saves:
        distiller = GeneralDistiller(
            TrainingConfig(output_dir=saves, device="cpu"),
            DistillationConfig(intermediate_matches=[dict(_MATCH)]),
            Sentences(teacher),
            Sentences(student),
            adaptor,
            adaptor,
        )
        with distiller:
            distiller.train(
                torch.optim.AdamW(student.parameters(), lr=RATE),
                batches,
                num_epochs=job.epochs,
                scheduler_class=get_linear_schedule_with_warmup,
                scheduler_args={"num_warmup_steps": steps // 20, "num_training_steps": steps},
                max_grad_norm=1.0,
            )
    student.save(job.out)


def main() -> None:
    """Warm up with two batches, then serve."""
    job = asked(sys.argv[1:])
    train(job, job.texts[: 2 * job.batch])
    serve(lambda: train(job, job.texts))


if __name__ == "__main__":
    main()
