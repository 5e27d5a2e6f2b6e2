"""Second student onward: `kdpipe train` from a cache that is there, beside a teacher in the loop.

    python -m benchmarks.second_student [--rows 3000] [--layers 2,4,6] [--epochs 1] [--batch 64]

All train the same student (layers of the teacher, with its weights) on the same texts with all
cores, to a folder that loads: TextBrewer's `GeneralDistiller`, and sentence-transformers' trainer
with a teacher that encodes each batch. Its examples keep the teacher's vectors in a column; a
second student from that is here too. kdpipe takes as many rows a step in the mean, of like length;
the peers take rows at random, padded to the longest of a batch. They compute in fp32, as they do
unless told otherwise; kdpipe in bf16 where the hardware has it, and in fp32. No side's imports are
counted, each has trained a few steps before; loading models, reading, checking, measuring on
held-out rows (kdpipe alone) and saving are. `limit` is the student's forward and backward passes
on kdpipe's batches, ready in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from transformers.utils.logging import disable_progress_bar

from benchmarks.kit import Figure, Peer, Size, Work, in_turns, report, times_as_fast
from benchmarks.scene import EMBEDDINGS, TEACHER, text_files
from kdpipe import io, train
from kdpipe.device import autocast
from kdpipe.job import prepare as prepare_job
from kdpipe.loader import Batch, read_batch
from kdpipe.metrics.vectors import cosine_rows
from kdpipe.progress import set_quiet
from kdpipe.project import Project, open_project
from kdpipe.run import Run
from kdpipe.stages.cache_teacher import cache_teacher
from kdpipe.stages.tokenize_corpus import tokenize
from kdpipe.stages.train_student import train as train_student

FILE = Path("bench.json")
OURS, FP32 = "kdpipe train, dtype auto", "kdpipe train, fp32"
TEXTBREWER = "TextBrewer GeneralDistiller"
LIVE = "sentence-transformers, teacher in the loop"
CACHED = "sentence-transformers, its cached column"
LIMIT = "limit: forward and backward alone, dtype auto"


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--layers", default="2,4,6", help="of the teacher's six")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64, help="rows")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    set_quiet(True)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        held = text_files(options.rows)
        measure(prepare(options), held, options)


def prepare(options: argparse.Namespace) -> Project:
    """Corpus and cache, and a first student of a few steps."""
    data: dict[str, Any] = {
        "corpora": {
            "c": {
                "sources": [{"kind": "files", "files": ["train.txt"]}],
                "validation_sources": [{"kind": "files", "files": ["held.txt"]}],
                "tokenizer": "t",
            }
        },
        "teachers": {"t": TEACHER},
        "caches": {"said": EMBEDDINGS},
    }
    FILE.write_text(json.dumps(data), "utf-8")
    tokenize(FILE)
    cache_teacher(FILE, device="cpu")
    facts = open_project(FILE).corpus("c").facts
    student = {
        "caches": ["said"],
        "model": {"kind": "teacher_layers", "layers": json.loads(f"[{options.layers}]")},
        "objectives": [{"kind": "embedding", "loss": "mse"}],
    }
    plan = {
        "num_train_epochs": options.epochs,
        "learning_rate": 1e-4,
        "tokens_per_batch": round(options.batch * facts.tokens / facts.rows),
    }
    kinds: dict[str, dict[str, Any]] = {
        "first": {"max_steps": 2},
        "kdpipe": {},
        "kdpipe-fp32": {"bf16": False},
    }
    data["students"] = {name: student | {"train": plan | more} for name, more in kinds.items()}
    FILE.write_text(json.dumps(data), "utf-8")
    train_student(FILE, ["first"], device="cpu")
    return open_project(FILE)


def measure(project: Project, held: list[str], options: argparse.Namespace) -> None:
    """All works in turns, the table, and how good the students are."""
    model = str(project.teacher("t").folder)
    words = [options.layers, str(options.epochs), str(options.batch)]
    texts = str(Path("train.txt").absolute())
    folders = {
        OURS: project.student_folder("kdpipe").absolute(),
        FP32: project.student_folder("kdpipe-fp32").absolute(),
        TEXTBREWER: Path("textbrewer").absolute(),
        LIVE: Path("teacher-in-the-loop").absolute(),
        CACHED: Path("cached-column").absolute(),
    }
    job = prepare_job(project, "kdpipe", *project.inputs("kdpipe"), "cpu")
    ready = batches_of(job.run)
    with contextlib.ExitStack() as running:

        def peer(name: str, *program: str) -> Work:
            started = Peer(*program, texts, model, str(folders[name]), *words)
            return running.enter_context(started)

        works: dict[str, Work] = {
            OURS: lambda: second(folders[OURS]),
            FP32: lambda: second(folders[FP32]),
            TEXTBREWER: peer(TEXTBREWER, "general_distiller"),
            LIVE: peer(LIVE, "model_distillation", "live"),
            CACHED: peer(CACHED, "model_distillation", "cached"),
            LIMIT: lambda: bare(job.run, ready),
        }
        seconds = in_turns(works, options.repetitions, warm=False)
    teacher = vectors_of(model, held)
    cosines = {
        f"cosine {one.name}": round(float(cosine_rows(vectors_of(one, held), teacher).mean()), 4)
        for one in folders.values()
    }
    tokens = sum(len(batch.tokens.ids) for batch in ready)
    report(
        "second_student",
        seconds,
        [
            Figure("beside TextBrewer", times_as_fast(seconds, OURS, TEXTBREWER), least=8),
            Figure("beside a teacher in the loop", times_as_fast(seconds, OURS, LIVE), least=8),
            Figure("beside it, in fp32", times_as_fast(seconds, FP32, LIVE)),
            Figure("beside a cached column", times_as_fast(seconds, OURS, CACHED)),
            Figure("share of the limit", times_as_fast(seconds, OURS, LIMIT), unit=""),
        ],
        sizes={
            "rows": options.rows,
            "epochs": options.epochs,
            "tokens": tokens,
            "layers": options.layers,
            "steps of kdpipe": len(ready),
            "steps of its peers": math.ceil(options.rows / options.batch) * options.epochs,
            "threads": torch.get_num_threads(),
            "auto": job.run.dtype,
            "rows held out": len(held),
            **cosines,
        },
        per=Size(tokens, "tokens"),
    )


def second(folder: Path) -> None:
    """A whole `kdpipe train`, to a folder that is not there."""
    io.remove(folder)
    train_student(FILE, [folder.name], device="cpu")


def batches_of(run: Run) -> list[Batch]:
    """Those of the whole training, with what the teacher said."""
    needs = run.terms.needs_of_teachers()
    groups = itertools.islice(train.plan(run, 0), train.total_steps(run))
    return [read_batch(run.corpus, run.caches, needs, group[0], run.gold) for group in groups]


def bare(run: Run, batches: list[Batch]) -> None:
    """The passes alone: nothing is read, clipped, updated, logged or saved."""
    run.student.train()
    needs, share = run.terms.needs_of_student(), {"rows": 1.0, "tokens": 1.0}
    for batch in batches:
        with autocast(run.device, run.dtype):
            said = run.student(batch.tokens, needs)
            loss, _ = run.terms(said, batch, progress=0.0, share=share)
        loss.backward()
        run.optimizer.zero_grad(set_to_none=True)


def vectors_of(folder: str | Path, texts: list[str]) -> Any:
    """[R, D]: what a model folder says, in fp32."""
    return SentenceTransformer(str(folder), device="cpu").encode(texts)


if __name__ == "__main__":
    main()
