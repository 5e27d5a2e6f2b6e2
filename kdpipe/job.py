"""A whole training job: build, resume, train with a progress line, checkpoint, keep a log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe import checkpoint, multitask, snapshots, stop, student, train, validate
from kdpipe.cache import Cache
from kdpipe.corpus import Corpus
from kdpipe.device import pick_device
from kdpipe.encoder import Encoder
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.idle import Idle
from kdpipe.join import join
from kdpipe.known_tokenizers import KnownTokenizer
from kdpipe.multitask import Together
from kdpipe.parts import Needs
from kdpipe.pipeline import StudentSpec
from kdpipe.processes import here
from kdpipe.progress import Progress, counted, say
from kdpipe.run import Run, Step, Training
from kdpipe.terms import Terms
from kdpipe.tokenizer import Tokenizer

if TYPE_CHECKING:
    from kdpipe.project import Project, Teacher


Line = dict[str, float]


@dataclass
class Log:
    """The lines of `steps.tsv`, and the steps since the last of them."""

    lines: list[Line] = field(default_factory=list)
    window: list[Line] = field(default_factory=list)
    tokens: int = 0
    """Of those steps."""

    def add(self, step: Step, *, full: bool) -> None:
        """Note a step; `full` ends the line: its losses are means over the steps since the last."""
        self.window.append({"loss": step.loss} | step.losses)
        self.tokens += step.tokens
        if full:
            line = {"step": float(step.number), "epoch": round(step.epoch, 4)}
            # Students that are trained in turn have losses of their own.
            names = dict.fromkeys(name for other in self.window for name in other)
            for name in names:
                values = [other[name] for other in self.window if name in other]
                line[name] = sum(values) / len(values)
            line |= {"learning_rate": step.learning_rate, "grad_norm": step.grad_norm}
            line["tokens"] = float(self.tokens)
            self.lines.append(line | (step.measured or {}))
            self.window.clear()
            self.tokens = 0


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


@dataclass(frozen=True)
class Jobs:
    """Students that share a body: their training as one, and the job of each."""

    group: Together
    each: dict[str, Job]
    log: Log

    def apart(self) -> dict[str, Job]:
        """The job of each student at the end, with weights of its own."""
        runs = multitask.apart(self.group)
        return {name: replace(one, run=runs[name]) for name, one in self.each.items()}


def prepare(
    project: Project, name: str, corpus: Corpus, caches: dict[str, Cache], device: str
) -> Job:
    """Everything checked and built, before the first step.

    Raises:
        UsageError: a student that cannot be built, or layers that do not exist.
        ArtifactError: a cache that lacks what an objective needs, or labels that the student's head
            does not have.
    """
    spec = project.pipeline.student(name)
    encoder, tokenizer = untrained(project, name, corpus)
    dims = {key: cache.dims for key, cache in caches.items()}
    student.check(spec, encoder, corpus.facts, labelled=bool(corpus.labelled.any()))
    terms = Terms(spec, encoder.dims, dims)
    terms.check({key: cache.provides for key, cache in caches.items()})
    needs = terms.needs_of_teachers()
    joined = {key: join(corpus, cache, needs.get(key, Needs())) for key, cache in caches.items()}
    run = train.start(spec.train, encoder, terms, corpus, joined, pick_device(device))
    batches, processes = train.batches_in_step(spec.train), here().size
    if processes > batches:
        raise UsageError(
            f"{processes} processes share the batches of a step, which has {batches}: set"
            f" gradient_accumulation_steps: {processes}, with a lower tokens_per_batch for steps of"
            " the same size, or use fewer processes"
        )
    validate.check(run, name)
    return Job(spec, run, project.teacher_of(name), tokenizer, Log())


def untrained(project: Project, name: str, corpus: Corpus) -> tuple[Encoder, Tokenizer]:
    """The student before its first step, and its tokenizer."""
    spec, teacher = project.pipeline.student(name), project.teacher_of(name)
    known = project.reading(spec.corpus_of(project.pipeline.caches)).known
    if known.fingerprint != corpus.facts.tokenizer:
        raise ArtifactError(
            f"{corpus.folder} was read by another tokenizer than its sources or its model give now:"
            f" run 'kdpipe tokenize {project.file}'"
        )
    loaded, tokenizer = None if teacher is None else teacher.load(), known.loaded
    giver, body = project.giver_of(name, teacher), None
    if giver is not None and giver != teacher:
        body = student.build_body(spec, giver.load(), tokenizer, alike=_alike(giver, known))
    built = student.build_student(
        spec,
        loaded,
        tokenizer,
        corpus.facts.labels,
        alike=_alike(teacher, known),
        imported=project.imported_by(name),
        body=body,
    )
    return built, tokenizer


def _alike(teacher: Teacher | None, tokenizer: KnownTokenizer) -> bool:
    """Whether a student reads its teacher's tokens."""
    return teacher is None or teacher.fingerprint == tokenizer.fingerprint


def prepare_together(
    project: Project, body: str, inputs: Mapping[str, tuple[Corpus, dict[str, Cache]]], device: str
) -> Jobs:
    """All students that share a body, with what each is trained on; raises as `prepare` does."""
    names = {corpus.facts.tokenizer: name for name, (corpus, _) in inputs.items()}
    if len(names) > 1:
        raise UsageError(
            f"students {' and '.join(sorted(names.values()))} share body {body!r}, but their"
            " corpora are read by different tokenizers: give all of them the same 'tokenizer'"
        )
    jobs = {name: prepare(project, name, *some, device) for name, some in inputs.items()}
    for name, job in jobs.items():
        if not len(train.rows_to_train(job.run)):
            raise UsageError(f"student {name!r} has no rows to train on: lower 'validation'")
    tau, log = project.pipeline.bodies[body].tau, Log()
    group = multitask.together({name: job.run for name, job in jobs.items()}, tau)
    each = {name: replace(job, run=group.runs[name], log=log) for name, job in jobs.items()}
    return Jobs(group, each, log)


def carry_out(job: Job, runs: Path) -> int | None:
    """Train from the last checkpoint in `runs` to the end; the signal that stopped it, if any."""
    total, steps = train.total_steps(job.run), train.fit(job.run)
    return _train(job.run, total, steps, job.log, runs, {runs: job})


def carry_out_together(jobs: Jobs, runs: Path) -> int | None:
    """As `carry_out`, for students that share a body."""
    group, folders = jobs.group, {runs / name: job for name, job in jobs.each.items()}
    total, steps = multitask.total_steps(group), multitask.fit(group)
    return _train(group, total, steps, jobs.log, runs, folders)


def _train(
    training: Training,
    total: int,
    steps: Iterator[Step],
    log: Log,
    runs: Path,
    kept: Mapping[Path, Job],
) -> int | None:
    """Take `steps` to the end; `kept` is where each student at its saves is kept.

    Raises as `_keep` does.
    """
    vars(log).update(checkpoint.resume(runs, training))
    spec, done = training.spec, training.progress.step
    every = checkpoint.steps_between(spec, total)
    terms = [term for job in kept.values() for term in job.run.terms.terms]
    idle = None if done else Idle(training.modules, terms)
    if done:
        say(f"continuing after step {done} of {total}")
    with stop.deferred() as signal, Progress("train", total, "steps", done=done) as bar:
        for step in steps:
            last = step.number == total
            full = last or step.number % spec.logging_steps == 0 or step.measured is not None
            log.add(step, full=full)
            bar.advance(1, note=_note(step))
            if idle is not None and (line := idle.note(step)) is not None:
                say(line)
            wish, saves = here().agreed(signal()), step.number % every == 0
            if saves or last or wish is not None:
                whole = wish is not None or not last
                _keep(training, log, runs, kept, whole=whole, models=saves)
            if wish is not None and not last:
                return wish
        if training.progress.skipped:
            taken = counted(training.progress.step, "step")
            say(f"{training.progress.skipped} of {taken} left out: their gradients overflowed fp16")
        # The result is still to be written: a full disk there must not cost the training.
        if here().leads:
            checkpoint.save(runs, training, vars(log), ended=True)
    for folder, job in kept.items():
        job.snapshots[:] = snapshots.taken(folder)
    return None


def _keep(
    training: Training,
    log: Log,
    runs: Path,
    kept: Mapping[Path, Job],
    *,
    whole: bool,
    models: bool,
) -> None:
    """Keep the whole training as it stands, the models, or neither where the end is at hand.

    Raises ArtifactError where a file that it learns from is not what it was.
    """
    for job in kept.values():
        job.run.refuse_changed()
    # Where one process has found that, none keeps what came of it.
    here().wait()
    if not here().leads:
        return
    for folder, job in kept.items() if models else ():
        snapshots.take(folder, job.run, job.tokenizer)
    if whole:
        checkpoint.save(runs, training, vars(log))


def _note(step: Step) -> str:
    measured = "".join(f", {name} {value:.4f}" for name, value in (step.measured or {}).items())
    return f"loss {step.loss:.4f}{measured}"
