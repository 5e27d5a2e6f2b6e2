"""Stage `cache-teacher`: let the teacher speak once, or read what it said, and keep that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from kdpipe import versions
from kdpipe.options import (
    Device,
    DryRun,
    Names,
    PipelineFile,
    Processes,
    StageVersion,
    expect_version,
)

if TYPE_CHECKING:
    from kdpipe.activations import Dims
    from kdpipe.cache import CacheFacts
    from kdpipe.corpus import Corpus
    from kdpipe.encoder import Encoder
    from kdpipe.known_rows import Known
    from kdpipe.pipeline import CacheSpec
    from kdpipe.processes import Group
    from kdpipe.project import Project
    from kdpipe.questions import Asking, Todo
    from kdpipe.store import Store

Verify = Annotated[
    bool, typer.Option("--verify", help="Read every shard and compute damaged ones again.")
]


def cache_teacher(
    pipeline: PipelineFile,
    names: Names = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    verify: Verify = False,
    processes: Processes = 1,
    stage_version: StageVersion = None,
) -> None:
    """Run the teacher over a corpus, once: safetensors files in artifacts/caches/NAME.

    What was computed before, for any cache, is found in the store and not computed again; a killed
    run loses at most the block it was in. A cache of 'files' takes over what is there already.

    Example: kdpipe cache-teacher pipelines/demo.yaml docs-minilm --dry-run
    """
    from kdpipe.pipeline import choose
    from kdpipe.processes import share_among, together
    from kdpipe.project import open_project

    expect_version(stage_version, versions.CACHE_TEACHER)
    project = open_project(pipeline)
    chosen = choose(project.pipeline.caches, names, "cache")
    if not dry_run:
        share_among(processes)
    with together() as group:
        for name in chosen:
            _cache(project, name, device, group, dry_run=dry_run, verify=verify)


class _Work(NamedTuple):
    """What a cache is made of: a teacher that is run, or files."""

    asking: Asking
    plan: Callable[[list[Todo]], tuple[Dims, str]]
    answer: Callable[[list[Todo], Known | None], None]
    facts: Callable[[], CacheFacts]
    did: str
    """In the sentence that tells of the end."""


def _cache(
    project: Project, name: str, device: str, group: Group, *, dry_run: bool, verify: bool
) -> None:
    from kdpipe import artifact, cache, questions, teacher
    from kdpipe.dry_run import show_plan
    from kdpipe.known_rows import spare
    from kdpipe.progress import say
    from kdpipe.questions import missing

    spec, folder, store = project.pipeline.caches[name], project.cache_folder(name), project.store
    corpus = project.corpus(spec.corpus)
    if spec.teacher is None:
        work = _import(project, spec, corpus)
    else:
        work = _ask(project, spec, spec.teacher, corpus, device)
    inputs = {
        "meaning": str(versions.CACHE_TEACHER),
        "corpus": corpus.digest,
        "teacher": work.asking.teacher,
        "dtype": work.asking.dtype,
    }
    if dry_run:
        todo, _ = spare(missing(work.asking, store), work.asking, folder)
        show_plan(work.asking, todo, store, folder, *work.plan(todo))
        return
    with group.lock(project.lock("cache", name), f"cache {name}"):
        identity = questions.cache_identity(spec)
        if not verify and artifact.is_current(folder, cache.KIND, identity, inputs):
            say(f"{folder}: up to date")
            return
        # Until the manifest is there, nothing says that the shards are still wanted.
        with group.lock(store.lock, "the store", shared=True):
            todo, known = spare(
                _todo(work.asking, store, group, verify=verify), work.asking, folder
            )
            rows = sum(len(item.unread) for item in todo)
            work.answer([*group.mine(todo)], known)
            group.wait()
            facts = work.facts()
            if group.leads:
                teacher.finish(work.asking, facts, store, folder, inputs)
    numerics = "" if spec.teacher is None else f" in {facts.dtype}"
    if facts.difference is not None:
        sample, cosine = facts.difference.rows, facts.difference.min_cosine
        numerics += f" (cosine to fp32 at least {cosine:.5f} on {sample} rows)"
    say(
        f"{folder}: {len(corpus.facts.blocks):,} blocks, {len(todo):,} of them new: {work.did}"
        f" {rows:,} of {facts.rows:,} rows{numerics}"
    )


def _todo(asking: Asking, store: Store, group: Group, *, verify: bool) -> list[Todo]:
    """What nobody has read, once the leader has thrown away what cannot be used."""
    from kdpipe import io
    from kdpipe.questions import missing

    if group.leads:
        io.sweep(store.root)
        todo = missing(asking, store, verify=verify)
        group.wait()
    else:
        group.wait()
        todo = missing(asking, store)
    # Nobody answers before all have looked.
    group.wait()
    return todo


def _ask(project: Project, spec: CacheSpec, name: str, corpus: Corpus, device: str) -> _Work:
    from kdpipe import teacher
    from kdpipe.device import pick_device, pick_dtype
    from kdpipe.dry_run import pace
    from kdpipe.project import same_tokenizer
    from kdpipe.questions import Asking

    who, where = project.teacher(name, mlm=spec.asks_mlm), pick_device(device)
    same_tokenizer(who, corpus, spec.corpus)
    asking = Asking(corpus, who.identity, spec, pick_dtype(spec.dtype, where))

    def load() -> Encoder:
        return who.load().to(where)

    def plan(todo: list[Todo]) -> tuple[Dims, str]:
        encoder = load()
        teacher.check(asking, encoder)
        return encoder.dims, pace(asking, todo, encoder)

    def answer(todo: list[Todo], known: Known | None) -> None:
        teacher.answer(asking, todo, project.store, load, known)

    def facts() -> CacheFacts:
        return teacher.facts(asking, project.store)

    return _Work(asking, plan, answer, facts, "the teacher read")


def _import(project: Project, spec: CacheSpec, corpus: Corpus) -> _Work:
    from kdpipe import import_targets

    asking = import_targets.importing(corpus, spec, project.root)

    def plan(todo: list[Todo]) -> tuple[Dims, str]:
        names = " and ".join(file.file for file in spec.files)
        return import_targets.dims(asking, project.root), f"from {names}"

    def answer(todo: list[Todo], known: Known | None) -> None:
        assert known is None, "files say it all again"
        import_targets.take_over(asking, todo, project.store, project.root)

    def facts() -> CacheFacts:
        return import_targets.facts(asking, project.store)

    return _Work(asking, plan, answer, facts, "the files gave")
