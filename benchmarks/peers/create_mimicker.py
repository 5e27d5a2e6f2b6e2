"""Langformers' `create_mimicker`, on a file of texts.

    python -m benchmarks.peers.create_mimicker FILE MODEL OUT STUDENT BATCH EPOCHS

STUDENT is its config as JSON; it ends in `OUT/<a name with the time>/best_model`. With 0 epochs all
is done but the training.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from langformers import tasks

from benchmarks.peers import serve

LOGGING_STEPS = 100
"""Of its documentation, as is the learning rate."""


def main(words: list[str]) -> None:
    """With the arguments of the program."""
    file, folder, out, student, batch, epochs = words
    rows = len(Path(file).read_text("utf-8").splitlines())
    training = {
        "num_train_epochs": int(epochs),
        "learning_rate": 5e-5,
        "batch_size": int(batch),
        "dataset_path": file,
        # It saves a model where it logs: never, where an epoch has fewer steps.
        "logging_steps": max(1, min(LOGGING_STEPS, rows // int(batch))),
    }
    os.chdir(out)
    serve(lambda: tasks.create_mimicker(folder, json.loads(student), training).train())


if __name__ == "__main__":
    main(sys.argv[1:])
