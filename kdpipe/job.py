"""A whole training job: build, resume, train with a progress line, checkpoint, keep a log."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe import checkpoint, snapshots, stop, student, train
from kdpipe.cache import Cache
from kdpipe.corpus import Corpus
from kdpipe.device import pick_device
from kdpipe.encoder import Encoder
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.join import join
from kdpipe.parts import Needs
from kdpipe.pipeline import StudentSpec
from kdpipe.progress import Progress, say
from kdpipe.terms import Terms
from kdpipe.tokenizer import Tokenizer
from kdpipe.train import Run, Step

if TYPE_CHECKING:
    from kdpipe.project import Project, Teacher


Line = dict[str, float]


@dataclass
class Log:
    """The lines of `steps.tsv`, and the steps since the last of them."""

    lines: list[Line] = field(default_factory=list)
    window: list[Line] = field(default_factory=list)

    def add(self, step: Step, *, full: bool) -> None:
        """Note a step; `full` ends the line: its losses are means over the steps since the last."""
        losses = {"loss": step.loss} | step.losses
        self.window.append(losses | {"grad_norm": step.grad_norm, "tokens": float(step.tokens)})
        if full:
            line = {"step": float(step.number), "epoch": round(step.epoch, 4)}
            count = len(self.window)
            line |= {name: sum(other[name] for other in self.window) / count for name in losses}
            line |= {"learning_rate": step.learning_rate, "grad_norm": step.grad_norm}
            line["tokens"] = sum(other["tokens"] for other in self.window)
            self.lines.append(line | (step.measured or {}))
            self.window.clear()


@dataclass(frozen=True)
class Job:
    """A run, and what is needed to write its result."""

    spec: StudentSpec
    run: Run
    teacher: Teacher | None
    tokenizer: Tokenizer
    log: Log
    snapshots: list[Path] = field(default_factory=list)
    """Models that were kept at saves, once the run has ended."""


def prepare(
    project: Project, name: str, corpus: Corpus, caches: dict[str, Cache], device: str
) -> Job:
    """Everything checked and built, before the first step.

    Raises:
        UsageError: a student that cannot be built, or layers that do not exist.
        ArtifactError: a cache that lacks what an objective needs.
    """
    spec = project.pipeline.students[name]
    encoder, tokenizer = untrained(project, name, corpus)
    dims = {key: cache.dims for key, cache in caches.items()}
    student.check(spec, encoder, corpus.facts, labelled=_labelled(corpus))
    terms = Terms(spec, encoder.dims, dims)
    terms.check({key: cache.provides for key, cache in caches.items()})
    needs = terms.needs_of_teachers()
    joined = {key: join(corpus, cache, needs.get(key, Needs())) for key, cache in caches.items()}
    run = train.start(spec.train, encoder, terms, corpus, joined, pick_device(device))
    if spec.train.metric_for_best_model == "eval_cosine" and not run.measures_cosine:
        raise UsageError(
            "metric_for_best_model: eval_cosine needs a student without a head, and embeddings in"
            " its first cache, as wide as its own: use eval_loss"
        )
    return Job(spec, run, project.teacher_of(name), tokenizer, Log())


def _labelled(corpus: Corpus) -> bool:
    """Whether any row has a label."""
    blocks = range(len(corpus.facts.blocks))
    return any(
        (labels := corpus.block(number).labels) is not None and labels.null_count < len(labels)
        for number in blocks
    )


def untrained(project: Project, name: str, corpus: Corpus) -> tuple[Encoder, Tokenizer]:
    """The student before its first step, and its tokenizer."""
    spec, teacher = project.pipeline.students[name], project.teacher_of(name)
    tokenizer = project.reading(spec.corpus_of(project.pipeline.caches)).tokenizer
    if tokenizer.fingerprint != corpus.facts.tokenizer:
        raise ArtifactError(
            f"{corpus.folder} was read by another tokenizer than its sources or its model give now:"
            f" run 'kdpipe tokenize {project.file}'"
        )
    loaded = None if teacher is None else teacher.load()
    alike = teacher is None or teacher.tokenizer.fingerprint == tokenizer.fingerprint
    labels, imported = corpus.facts.labels, project.imported_by(name)
    built = student.build_student(spec, loaded, tokenizer, labels, alike=alike, imported=imported)
    return built, tokenizer


def carry_out(job: Job, runs: Path) -> int | None:
    """Train from the last checkpoint in `runs` to the end; the signal that stopped it, if any."""
    spec, run = job.spec.train, job.run
    vars(job.log).update(checkpoint.resume(runs, run))
    total = train.total_steps(run)
    every = checkpoint.steps_between(spec, total)
    if run.progress.step:
        say(f"continuing after step {run.progress.step} of {total}")
    done = run.progress.step
    with stop.deferred() as signal, Progress("train", total, "steps", done=done) as bar:
        for step in train.fit(run):
            last = step.number == total
            full = last or step.number % spec.logging_steps == 0 or step.measured is not None
            job.log.add(step, full=full)
            bar.advance(1, note=_note(step))
            wish, saves = signal(), step.number % every == 0
            if saves:
                snapshots.take(runs, run, job.tokenizer)
            if wish is not None or (saves and not last):
                checkpoint.save(runs, run, vars(job.log))
            if wish is not None and not last:
                return wish
        if run.progress.skipped:
            steps = f"{run.progress.skipped} of {run.progress.step} steps"
            say(f"{steps} overflowed fp16 and were left out")
        # The result is still to be written: a full disk there must not cost the training.
        checkpoint.save(runs, run, vars(job.log))
    job.snapshots[:] = snapshots.taken(runs)
    return None


def _note(step: Step) -> str:
    measured = "".join(f", {name} {value:.4f}" for name, value in (step.measured or {}).items())
    return f"loss {step.loss:.4f}{measured}"
