"""What the peers of `second_student` share: arguments, and a student of the teacher's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from sentence_transformers import SentenceTransformer
from torch import nn

RATE = 1e-4


class Asked(NamedTuple):
    """The arguments of a program: `FILE MODEL OUT LAYERS EPOCHS BATCH`."""

    file: Path
    """Texts, one a line."""
    model: str
    """Folder of the teacher."""
    out: str
    """Where the student goes."""
    layers: tuple[int, ...]
    """Of the teacher, which the student keeps; 1 is the first: `2,4,6`."""
    epochs: int
    batch: int
    """Rows."""

    @property
    def texts(self) -> list[str]:
        return self.file.read_text("utf-8").splitlines()

    def teacher(self) -> SentenceTransformer:
        return SentenceTransformer(self.model, device="cpu")

    def student(self) -> SentenceTransformer:
        """As sentence-transformers' example of layer reduction makes one."""
        made = self.teacher()
        body: Any = made.transformers_model
        kept = [body.encoder.layer[layer - 1] for layer in self.layers]
        body.encoder.layer = nn.ModuleList(kept)
        body.config.num_hidden_layers = len(kept)
        return made


def asked(words: list[str]) -> Asked:
    """From a command line."""
    file, model, out, layers, epochs, batch = words
    numbers = tuple(map(int, layers.split(",")))
    return Asked(Path(file), model, out, numbers, int(epochs), int(batch))
