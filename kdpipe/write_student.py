"""The student's folder: the loadable model, what made it, how training went, and its manifest.

The model card stands in the folder but not in the manifest: it is a page about the student, written
again when more is known (`evaluate` puts the measured table into it), and no input of anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors.torch import save
from torch import Tensor

import kdpipe
from kdpipe import artifact, card, io, plots, snapshots
from kdpipe.folder import write_model
from kdpipe.job import Job, Line
from kdpipe.made_from import KIND, student_identity
from kdpipe.nets.crf import FILE as CRF_FILE

if TYPE_CHECKING:
    from kdpipe.project import Project

CARD = "README.md"


def write_student(project: Project, name: str, job: Job, inputs: dict[str, str]) -> None:
    """Write and finish `artifacts/students/<name>` from a run that has ended.

    The folder holds the best weights; where the last ones are others, they are in `last/`.
    """
    folder, run, facts = project.student_folder(name), job.run, job.run.corpus.facts
    io.make_folder(folder)
    artifact.unfinish(folder)
    last = {key: tensor.detach().clone() for key, tensor in run.modules.state_dict().items()}
    files = []
    best = dict(run.best) if run.spec.load_best_model_at_end else {}
    if best and run.progress.best_step != run.progress.step:
        io.make_folder(folder / "last")
        files += _weights(folder, "last/", last)
    run.modules.load_state_dict(best or last)
    files += write_model(
        folder,
        run.student.to("cpu"),
        job.tokenizer,
        max_seq_length=facts.max_seq_length,
        prompt=facts.prompt,
    )
    files += _projections(folder, "", best or last)
    files += snapshots.copy(job.snapshots, folder)
    io.write_file(folder / "steps.tsv", _tsv(job.log.lines).encode())
    io.write_file(folder / "loss.svg", plots.loss_picture(_columns(job.log.lines)))
    story = _story(project, name, job, inputs)
    io.write_file(folder / "kdpipe.json", artifact.readable(story))
    files += ["steps.tsv", "loss.svg", "kdpipe.json"]
    card.write_card(folder, story, table="")
    top = {file.partition("/")[0] for file in files}
    io.prune(folder, top | {CARD})
    artifact.finish(
        folder,
        artifact.Manifest(
            format=KIND,
            version=artifact.VERSIONS[KIND],
            spec=student_identity(job.spec),
            inputs=inputs,
            facts={
                "steps": run.progress.step,
                "best_step": run.progress.best_step,
                "measured": run.progress.best,
                "parameters": sum(p.numel() for p in run.student.parameters()),
            },
            files=tuple(artifact.part(folder, file, "sha256") for file in sorted(files)),
        ),
    )


def _weights(folder: Path, place: str, tensors: dict[str, Tensor]) -> list[str]:
    """The student's weights alone, in the form of the folder around them."""
    prefix = "student.model."
    kept = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    dense = {k.removeprefix("student."): v for k, v in tensors.items() if "student.dense." in k}
    prefix = "student.crf."
    crf = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    every = {"model.safetensors": kept, "dense.safetensors": dense, CRF_FILE: crf}
    files = {name: values for name, values in every.items() if values}
    for name, values in files.items():
        here = {key: value.cpu().contiguous() for key, value in values.items()}
        io.write_file(folder / f"{place}{name}", save(here, {"format": "pt"}))
    return [f"{place}{name}" for name in files] + _projections(folder, place, tensors)


def _projections(folder: Path, place: str, tensors: dict[str, Tensor]) -> list[str]:
    """The learned maps of the objectives, `<objective>.<pair>.weight`, where there are any."""
    prefix = "terms.projections."
    learned = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if not learned:
        return []
    name = f"{place}projections.safetensors"
    io.write_file(folder / name, save({k: v.cpu().contiguous() for k, v in learned.items()}))
    return [name]


def _columns(lines: list[Line]) -> dict[str, list[float | None]]:
    names = list(dict.fromkeys(name for line in lines for name in line))
    return {name: [line.get(name) for line in lines] for name in names}


def _tsv(lines: list[Line]) -> str:
    """One line for every `logging_steps` steps; empty where nothing was measured."""
    columns = _columns(lines)
    rows = [[_text(columns[name][index]) for name in columns] for index in range(len(lines))]
    return "".join("\t".join(row) + "\n" for row in [list(columns), *rows])


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"


def _story(project: Project, name: str, job: Job, inputs: dict[str, str]) -> dict[str, Any]:
    """What made the student: `kdpipe.json`. No times, host names or absolute paths."""
    run, facts = job.run, job.run.corpus.facts
    pipeline, whole = project.pipeline, project.pipeline.trained_as(name)
    return {
        "kdpipe": kdpipe.__version__,
        "student": {"name": name, **student_identity(job.spec)},
        "body": None
        if whole not in pipeline.bodies
        else {
            "name": whole,
            "tau": pipeline.bodies[whole].tau,
            "students": list(pipeline.trained_in(whole)),
        },
        "teacher": None
        if job.teacher is None
        else {
            "model": job.teacher.title,
            "identity": job.teacher.identity,
            "license": card.license_of(job.teacher.folder),
        },
        "corpus": {
            "rows": facts.rows,
            "held_out": facts.held_out,
            "tokens": facts.tokens,
            "max_seq_length": facts.max_seq_length,
            "prompt": facts.prompt,
            "tokenizer": facts.tokenizer,
        },
        "caches": {key: joined.cache.facts.identity() for key, joined in run.caches.items()},
        "inputs": inputs,
        "training": {
            "steps": run.progress.step,
            "best_step": run.progress.best_step,
            "measured": run.progress.best,
            "device": run.device.type,
            "dtype": run.dtype,
            "skipped": run.progress.skipped,
        },
        "shape": {
            "layers": run.student.dims.layers,
            "hidden": run.student.dims.hidden,
            "embedding": run.student.dims.embedding,
            "head": run.student.answers,
            "problem": run.student.dims.problem,
            "classes": list(run.student.dims.classes),
            "parameters": sum(p.numel() for p in run.student.parameters()),
        },
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
