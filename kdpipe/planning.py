"""What a pipeline file will cost, predicted from a probe: every corpus, cache and student of it.

What is there is counted; the rest is measured for some seconds on a sample. Nothing is made.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

import torch

from kdpipe import (
    artifact,
    corpus,
    import_targets,
    job,
    multitask,
    passes,
    teacher,
    train,
    validate,
)
from kdpipe.activations import Dims
from kdpipe.cache import Cache, CacheFacts, told_of
from kdpipe.corpus import Corpus
from kdpipe.device import Dtype, pick_dtype
from kdpipe.dry_run import bytes_of
from kdpipe.encoder import Encoder, keep_in
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.fill_blocks import Reading
from kdpipe.forecast import CacheForecast, CorpusForecast, StudentForecast, measurements
from kdpipe.importing import Importing, identity_of
from kdpipe.known_rows import spare
from kdpipe.pipeline import CacheSpec
from kdpipe.progress import Progress
from kdpipe.project import Project, same_tokenizer
from kdpipe.questions import Asking, Todo, missing
from kdpipe.rehearsal import Rehearsal, Rehearsed, rehearse
from kdpipe.run import Run
from kdpipe.sample import Sample, sample
from kdpipe.write_corpus import inputs_of


@dataclass(frozen=True)
class Forecast:
    """What there is to make, in the order of the pipeline file."""

    corpora: list[CorpusForecast] = field(default_factory=list)
    caches: list[CacheForecast] = field(default_factory=list)
    students: list[StudentForecast] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    """What cannot be told yet, by name, and what to do before."""

    @property
    def seconds(self) -> dict[str, float]:
        """By stage."""
        return {
            "tokenize": sum(one.seconds for one in self.corpora),
            "cache-teacher": sum(one.whole_seconds for one in self.caches),
            "train": sum(one.seconds for one in self.students),
        }

    @property
    def bytes(self) -> int:
        """Still to write, of corpora and caches."""
        texts = sum(one.bytes for one in self.corpora if one.seconds)
        return texts + sum(sum(one.bytes.values()) for one in self.caches)


@dataclass(frozen=True)
class _Text:
    """A corpus that is there, or a sample of one that is not."""

    corpus: Corpus
    times: float
    """How many times as many rows the whole has."""
    exact: bool
    """Whether these are all of them, in the blocks that they belong to."""


@dataclass
class _Probe:
    """All that was found out so far."""

    project: Project
    device: torch.device
    share: float
    """Seconds for each thing that is measured."""
    told: Forecast = field(default_factory=Forecast)
    texts: dict[str, _Text] = field(default_factory=dict)
    caches: dict[str, Cache] = field(default_factory=dict)
    teachers: dict[tuple[str, bool, Dtype], tuple[Encoder, float]] = field(default_factory=dict)
    """Each with the seconds that it took to load."""


def forecast(project: Project, device: torch.device, seconds: float = 10.0) -> Forecast:
    """Measured for about `seconds`, models and texts that have to be read aside.

    Raises:
        UsageError: something that cannot be made as the pipeline file says.
        ArtifactError: text, a model or files that are not there.
        NonFiniteError: the loss of a student became NaN or Inf.
    """
    known = project.pipeline
    begun = {name: _begun(project, name) for name in known.corpora}
    absent = sum(reading is not None for reading, _ in begun.values())
    asked = sum(cache.teacher is not None for cache in known.caches.values())
    # Students are measured twice: while their teachers speak, and then on what these said.
    parts = absent + asked + 2 * len(known.students)
    probe = _Probe(project, device, seconds / max(1, parts))
    wholes = dict.fromkeys(map(known.trained_as, known.students))
    total = len(known.corpora) + len(known.caches) + len(wholes)
    with Progress("plan", total=total, unit="parts") as bar:
        for name, (reading, took) in begun.items():
            _corpus(probe, name, reading, took)
            bar.advance(1, note=name)
        for name, spec in known.caches.items():
            _cache(probe, name, spec)
            bar.advance(1, note=name)
        for whole in wholes:
            _students(probe, whole)
            bar.advance(1, note=whole)
    return probe.told


def _begun(project: Project, name: str) -> tuple[Reading | None, float]:
    """How a corpus is read that is not there, and the seconds until its first row can be.

    These are those of its tokenizer, and of the digests of its text; None for one that is there.
    """
    begin, reading = time.perf_counter(), project.reading(name)
    spec, folder = project.pipeline.corpora[name], project.corpus_folder(name)
    inputs = inputs_of(spec, reading, project.root)
    if artifact.is_current(folder, corpus.KIND, spec.identity(), inputs):
        return None, 0.0
    _ = reading.tokenizer  # it is loaded, or its words are found
    return reading, time.perf_counter() - begin


def _corpus(probe: _Probe, name: str, reading: Reading | None, took: float) -> None:
    """Count what is there, or read a sample of what is not."""
    project = probe.project
    if reading is None:
        found = project.corpus(name)
        size = sum(file.bytes for file in found.manifest.files)
        made = Sample(found, 1.0, True, size, 0.0)
    else:
        spec, folder = project.pipeline.corpora[name], project.corpus_folder(name)
        made = sample(spec, folder, reading, project.root, probe.share)
        took += made.seconds
    facts, text = made.corpus.facts, _Text(made.corpus, made.times, made.exact)
    probe.texts[name] = text
    probe.told.corpora.append(
        CorpusForecast(
            name,
            rows=round(facts.rows * text.times),
            tokens=round(facts.tokens * text.times),
            bytes=round(made.bytes * text.times),
            seconds=0.0 if reading is None else took,
            exact=text.exact,
        )
    )


def _cache(probe: _Probe, name: str, spec: CacheSpec) -> None:
    """What is to do for a cache, and one that students can be tried on meanwhile."""
    text = probe.texts[spec.corpus]
    if spec.teacher is None:
        _cache_of_files(probe, name, spec, text)
        return
    who = probe.project.teacher(spec.teacher, mlm=spec.asks_mlm)
    same_tokenizer(who, text.corpus, spec.corpus)
    asking = Asking(text.corpus, who.identity, spec, pick_dtype(spec.dtype, probe.device))
    key = (spec.teacher, spec.asks_mlm, asking.dtype)
    if key not in probe.teachers:
        begin, loaded = time.perf_counter(), who.load().to(probe.device)
        keep_in(loaded, asking.dtype)
        probe.teachers[key] = loaded, time.perf_counter() - begin
    encoder, load = probe.teachers[key]
    teacher.check(asking, encoder)
    folder = probe.project.cache_folder(name)
    todo, _ = spare(missing(asking, probe.project.store), asking, folder)
    rate = passes.seconds_per_token(asking, todo, encoder, probe.share)
    seconds = rate * sum(item.tokens for item in todo) * text.times
    probe.caches[name] = _rehearsed(probe, name, asking, encoder)
    _tell(probe, name, asking, todo, encoder.dims, (seconds, load))


def _cache_of_files(probe: _Probe, name: str, spec: CacheSpec, text: _Text) -> None:
    """What is to be taken over; students are tried on a cache of files only once it is made."""
    project = probe.project
    if not text.exact:
        probe.told.unknown[name] = f"run 'kdpipe tokenize {project.file} {spec.corpus}' first"
        return
    said_by = identity_of(spec, project.root)
    asking = Importing(text.corpus, said_by, spec, "fp32")
    todo = missing(asking, project.store)
    try:
        probe.caches[name] = project.cache(name, text.corpus)
        dims = probe.caches[name].dims
    except ArtifactError:
        dims = import_targets.dims(asking, project.root)
    _tell(probe, name, asking, todo, dims, None)


def _tell(
    probe: _Probe,
    name: str,
    asking: Asking,
    todo: list[Todo],
    dims: Dims,
    seconds: tuple[float, float] | None,
) -> None:
    """Note what is to do; `seconds` are those of the teacher, where one is run: passes, loading."""
    text, passing = probe.texts[asking.spec.corpus], seconds or (0.0, 0.0)
    times = text.times
    sizes = {
        question.name: bytes_of(
            question, [item.block for item in todo if question in item.questions], dims
        )
        for question in asking.questions
    }
    probe.told.caches.append(
        CacheForecast(
            name,
            blocks=round(len(todo) * times),
            of_blocks=round(len(asking.corpus.facts.blocks) * times),
            bytes={question: round(size * times) for question, size in sizes.items()},
            seconds=passing[0],
            load=passing[1],
            exact=text.exact,
            teacher=seconds is not None,
        )
    )


def _rehearsed(probe: _Probe, name: str, asking: Asking, encoder: Encoder) -> Rehearsed:
    dims, questions = encoder.dims, tuple(asking.questions)
    facts = CacheFacts(
        teacher=asking.teacher,
        tokenizer=asking.corpus.facts.tokenizer,
        dtype=asking.dtype,
        difference=None,
        prompt_tokens=asking.corpus.facts.prompt_tokens,
        rows=asking.corpus.facts.rows,
        questions=questions,
        widths={one.name: dims.width(one.what) for one in questions},
        **told_of(dims),
    )
    folder, text = probe.project.cache_folder(name), asking.corpus
    return Rehearsed(folder, text.manifest, "", facts, text, asking, encoder)


def _students(probe: _Probe, whole: str) -> None:
    """Try the students that are trained as one: those of a body, or a single one."""
    known, file = probe.project.pipeline, probe.project.file
    names = known.trained_in(whole)
    later = [c for name in names for c in known.students[name].caches if c not in probe.caches]
    if later:
        remedy = f"run 'kdpipe cache-teacher {file} {later[0]}' first"
        probe.told.unknown.update(dict.fromkeys(names, remedy))
        return
    tried = [_try(probe, name) for name in names]
    spec, epoch = known.student(names[0]).train, sum(one.steps_per_epoch for one in tried)
    total = spec.max_steps if spec.max_steps > 0 else max(1, ceil(spec.num_train_epochs * epoch))
    tau = known.bodies[whole].tau if whole in known.bodies else 1.0
    shares = multitask.shares_of_turns([one.rows for one in tried], tau).tolist()
    measured = measurements(total, spec.eval_steps or epoch)
    for name, one, share in zip(names, tried, shares, strict=True):
        seconds = one.seconds
        probe.told.students.append(
            StudentForecast(
                name,
                steps=total * share,
                steps_per_epoch=one.steps_per_epoch,
                start=one.start + seconds.first,
                step=seconds.step,
                measuring=measured * one.held_out_tokens * seconds.per_token,
                in_loop=seconds.in_loop,
                reading=seconds.reading,
                exact=one.exact,
            )
        )


class _Tried(NamedTuple):
    """What trying a student has told of its training."""

    seconds: Rehearsal
    start: float
    """Seconds before its first step."""
    rows: float
    steps_per_epoch: float
    held_out_tokens: float
    exact: bool


def _try(probe: _Probe, name: str) -> _Tried:
    known, begin = probe.project.pipeline, time.perf_counter()
    spec = known.students[name]
    text = probe.texts[spec.corpus_of(known.caches)]
    caches = {cache: probe.caches[cache] for cache in spec.caches}
    try:
        run = job.prepare(probe.project, name, text.corpus, caches, str(probe.device)).run
    except (ArtifactError, UsageError) as error:
        raise type(error)(f"student {name}: {error}") from error
    rows, start = len(train.rows_to_train(run)), time.perf_counter() - begin
    if not rows:
        raise UsageError(f"student {name!r} has no rows to train on: lower 'validation'")
    seconds = rehearse(run, probe.share)
    for cache in caches.values():
        if isinstance(cache, Rehearsed):
            cache.kept.clear()
    # Of a sample only those rows are known that its caches have too.
    texts = [text, *(probe.texts[known.caches[cache].corpus] for cache in caches)]
    times, exact = max(one.times for one in texts), all(one.exact for one in texts)
    per_epoch, held_out = train.steps_per_epoch(run) * times, _held_out_tokens(run, times)
    return _Tried(seconds, start, rows * times, per_epoch, held_out, exact)


def _held_out_tokens(run: Run, times: float) -> float:
    """Tokens that are read whenever held-out rows are measured."""
    rows = validate.rows_to_measure(run)
    by_sources = run.corpus.manifest.spec.get("validation_sources")
    if len(rows) and not by_sources:
        times = min(times, validate.MOST_DRAWN / len(rows))
    return float(run.corpus.lengths[rows].sum()) * times
