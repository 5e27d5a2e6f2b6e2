"""The whole job, ten epochs, beside Langformers: text in, the student of its documentation out.

    python -m benchmarks.whole_job [--rows 4000] [--all-epochs] [--repetitions 3]

kdpipe's three commands and Langformers' `create_mimicker` are started anew each time, so that
imports are counted on both sides. Both have the same teacher (mean-pooled, not normalised), texts,
shape of student, learning rate and rows a step in the mean, and all cores. Langformers pads every
row to 128 tokens, runs the teacher in each epoch, and computes in fp32; kdpipe runs it once, takes
rows of like length together, and computes in bf16 where the hardware has it. It also measures
held-out rows after each epoch.

All epochs of Langformers cost the same, since each pads, tokenises and asks the teacher alike: one
is measured, less what a run without any takes, and counted ten times. `--all-epochs` makes ten, and
then shows how good that student is: how alike it and the teacher order pairs of held-out rows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers.utils.logging import disable_progress_bar

from benchmarks.kit import Figure, Peer, Size, Work, in_turns, report, times_as_fast
from benchmarks.scene import EMBEDDINGS, TEACHER, text_files
from benchmarks.second_student import bare, batches_of
from kdpipe.activations import Tokens
from kdpipe.encoder import embed, keep_in
from kdpipe.job import prepare as prepare_job
from kdpipe.loader import Batch
from kdpipe.metrics.vectors import pair_spearman
from kdpipe.progress import set_quiet
from kdpipe.project import Project, open_project
from kdpipe.run import Run
from kdpipe.stages.cache_teacher import cache_teacher
from kdpipe.stages.tokenize_corpus import tokenize

STUDENT = {
    "max_position_embeddings": 130,
    "num_attention_heads": 8,
    "num_hidden_layers": 8,
    "hidden_size": 128,
    "intermediate_size": 256,
}
LONGEST, BATCH, EPOCHS = 128, 128, 10
"""Tokens of a row, rows of a step."""
FILE = Path("bench.json")
OURS = f"kdpipe tokenize, cache-teacher, train, {EPOCHS} epochs"
NONE, ONE = "Langformers, no epoch", "Langformers, one epoch"
COUNTED, MADE = (f"Langformers, {EPOCHS} epochs ({how})" for how in ("one, counted so", "all made"))
LIMIT = "limit: the passes of teacher and student alone"


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--all-epochs", action="store_true", help="of Langformers too")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    set_quiet(True)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        held = text_files(options.rows)
        measure(prepare(), held, options)


def prepare() -> Project:
    """The pipeline file, and what the limit needs of its artifacts."""
    data: dict[str, Any] = {
        "corpora": {
            "c": {
                "sources": [{"kind": "files", "files": ["train.txt"]}],
                "validation_sources": [{"kind": "files", "files": ["held.txt"]}],
                "tokenizer": "t",
                "max_seq_length": LONGEST,
            }
        },
        "teachers": {"t": {**TEACHER, "pooling": "mean", "normalize": False}},
        "caches": {"said": EMBEDDINGS},
    }
    FILE.write_text(json.dumps(data), "utf-8")
    tokenize(FILE)
    facts = open_project(FILE).corpus("c").facts
    data["students"] = {
        "mimic": {
            "caches": ["said"],
            "model": {"kind": "shape", "model_type": "roberta", **STUDENT},
            "objectives": [{"kind": "embedding", "loss": "mse"}],
            "train": {
                "num_train_epochs": EPOCHS,
                "learning_rate": 5e-5,
                "lr_scheduler_type": "constant",
                "warmup_steps": 0,
                "max_grad_norm": 0,
                "tokens_per_batch": round(BATCH * facts.tokens / facts.rows),
            },
        }
    }
    FILE.write_text(json.dumps(data), "utf-8")
    cache_teacher(FILE, device="cpu")
    return open_project(FILE)


def measure(project: Project, held: list[str], options: argparse.Namespace) -> None:
    """All works in turns, the table, and how good the students are."""
    corpus, caches = project.inputs("mimic")
    run = prepare_job(project, "mimic", corpus, caches, "cpu").run
    ready, teacher = batches_of(run), project.teacher("t")
    works: dict[str, Work] = {OURS: ours}
    if options.all_epochs:
        works[MADE] = lambda: langformers(teacher.folder, EPOCHS)
    else:
        works |= {
            NONE: lambda: langformers(teacher.folder, 0),
            ONE: lambda: langformers(teacher.folder, 1),
        }
    seconds = in_turns(works | {LIMIT: limit(project, run, ready)}, options.repetitions, warm=False)
    peer = MADE
    if not options.all_epochs:
        peer = COUNTED
        pairs = zip(seconds[NONE], seconds[ONE], strict=True)
        seconds[COUNTED] = [none + EPOCHS * (one - none) for none, one in pairs]
    folders = {"kdpipe": project.student_folder("mimic")}
    if options.all_epochs:
        folders["Langformers"] = next(Path().glob("langformers*/best_model"))
    said = vectors_of(teacher.folder, held)
    fidelity = {
        f"spearman of {name}": round(pair_spearman(vectors_of(folder, held), said), 4)
        for name, folder in folders.items()
    }
    tokens = sum(len(batch.tokens.ids) for batch in ready)
    report(
        "whole_job",
        seconds,
        [
            Figure("beside Langformers", times_as_fast(seconds, OURS, peer), least=25),
            Figure("share of the limit", times_as_fast(seconds, OURS, LIMIT), unit=""),
        ],
        sizes={
            "rows": options.rows,
            "epochs": EPOCHS,
            "tokens": tokens,
            "steps of kdpipe": len(ready),
            "steps of Langformers": EPOCHS * math.ceil(options.rows / BATCH),
            "threads": torch.get_num_threads(),
            "auto": run.dtype,
            "rows held out": len(held),
            **fidelity,
        },
        per=dict.fromkeys((OURS, peer, LIMIT), Size(tokens, "tokens")),
    )


def ours() -> None:
    """Three commands in a folder that has the text alone."""
    for folder in ("artifacts", ".kdpipe"):
        shutil.rmtree(folder, ignore_errors=True)
    for stage, *more in (
        ["tokenize"],
        ["cache-teacher", "--device=cpu"],
        ["train", "--device=cpu"],
    ):
        command = [sys.executable, "-m", "kdpipe", "--quiet", stage, str(FILE), *more]
        subprocess.run(command, check=True)


def langformers(teacher: Path, epochs: int) -> None:
    """Its program from start to end."""
    here = Path.cwd()
    for made in here.glob("langformers*"):
        shutil.rmtree(made)
    words = [str(here / "train.txt"), str(teacher), str(here), json.dumps(STUDENT)]
    with Peer("create_mimicker", *words, str(BATCH), str(epochs)) as peer:
        peer()


def limit(project: Project, run: Run, ready: list[Batch]) -> Work:
    """The teacher over all rows once, and the student forward and backward on all batches."""
    encoder, corpus = project.teacher("t").load(), run.corpus
    if run.dtype != "fp32":
        keep_in(encoder, run.dtype)
    rows = corpus.gather(np.arange(corpus.facts.rows))
    tokens = Tokens.of(rows, corpus.facts.prompt_tokens)

    def work() -> None:
        embed(encoder, tokens, run.dtype)
        bare(run, ready)

    return work


def vectors_of(folder: Path, texts: list[str]) -> Any:
    """[R, D]: mean-pooled, as a model folder says, in fp32."""
    return SentenceTransformer(str(folder), device="cpu").encode(texts)


if __name__ == "__main__":
    main()
