"""What takes long the first time, done once, before trials are forked from this process."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from kdpipe.load import load_encoder
from kdpipe.modules import head_of
from kdpipe.plots import loss_picture
from tests.tiny import tiny_teacher_folder

torch.set_num_threads(1)
disable_progress_bar()
with tempfile.TemporaryDirectory() as name:
    folder = tiny_teacher_folder(Path(name) / "teacher")
    load_encoder(folder, head_of(folder))
loss_picture({name: [1.0, 0.5] for name in ("step", "loss", "learning_rate", "eval_loss")})
