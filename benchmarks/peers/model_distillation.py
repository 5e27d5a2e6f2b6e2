"""sentence-transformers' trainer, as its `model_distillation` examples use it: MSE of embeddings.

    python -m benchmarks.peers.model_distillation TEACHER FILE MODEL OUT LAYERS EPOCHS BATCH

TEACHER is `live`, which encodes each batch anew, or `cached`: the examples' `label` column, on disk
before the first student is trained, as for a second one it is.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from datasets import Dataset, load_from_disk
from sentence_transformers.sentence_transformer.losses import MSELoss
from sentence_transformers.sentence_transformer.trainer import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.training_args import (
    SentenceTransformerTrainingArguments,
)

from benchmarks.peers import serve
from benchmarks.peers.second import RATE, Asked, asked

Texts = dict[str, list[str]]


def live(job: Asked, texts: list[str]) -> Dataset:
    """Rows whose labels are made when they are read."""
    teacher = job.teacher()

    def label(batch: Texts) -> Texts:
        vectors = teacher.encode(
            batch["sentence"], batch_size=job.batch, convert_to_tensor=True, show_progress_bar=False
        )
        return batch | {"label": list(vectors.clone())}

    return Dataset.from_dict({"sentence": texts}).with_transform(label)


def cache(job: Asked, texts: list[str], folder: Path) -> None:
    """Labels in a column, as the examples make them."""
    teacher = job.teacher()

    def label(batch: Texts) -> dict[str, list[list[float]]]:
        vectors = teacher.encode(batch["sentence"], batch_size=64, show_progress_bar=False)
        return {"label": vectors.tolist()}

    rows = Dataset.from_dict({"sentence": texts})
    rows.map(label, batched=True, batch_size=50_000).save_to_disk(str(folder))


def train(job: Asked, rows: Dataset) -> None:
    """One student, saved in `job.out`."""
    student = job.student()
    with tempfile.TemporaryDirectory() as saves:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=saves,
            num_train_epochs=job.epochs,
            per_device_train_batch_size=job.batch,
            learning_rate=RATE,
            warmup_steps=0.05,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        SentenceTransformerTrainer(
            model=student, args=arguments, train_dataset=rows, loss=MSELoss(student)
        ).train()
    student.save(job.out)


def main(teacher: str, job: Asked) -> None:
    """Warm up with two batches, then serve."""
    train(job, live(job, job.texts[: 2 * job.batch]))
    if teacher == "live":
        serve(lambda: train(job, live(job, job.texts)))
        return
    with tempfile.TemporaryDirectory() as folder:
        labels = Path(folder) / "labels"
        cache(job, job.texts, labels)
        serve(lambda: train(job, load_from_disk(str(labels))))


if __name__ == "__main__":
    main(sys.argv[1], asked(sys.argv[2:]))
