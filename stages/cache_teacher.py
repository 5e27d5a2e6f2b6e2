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
    from kdpipe.encoder import Encoder
    from kdpipe.known_rows import Known
    from kdpipe.made_from import CacheWanted
    from kdpipe.processes import Group
    from kdpipe.project import Project, Teacher
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
    from kdpipe.freed_memory import keep_freed
    from kdpipe.pipeline import choose
    from kdpipe.processes import share_among, together
    from kdpipe.project import open_project

    expect_version(stage_version, versions.CACHE_TEACHER)
    project = open_project(pipeline)
    chosen = choose(project.pipeline.caches, names, "cache")
    if not dry_run:
        share_among(processes)
    keep_freed()
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
    from kdpipe import made_from
    from kdpipe.progress import say

    wanted = made_from.cache_wanted(project, name)
    if dry_run:
        _show_plan(project, wanted, device)
        return
    with group.lock(project.lock("cache", name), f"cache {name}"):
        if not verify and wanted.finished_in() is not None:
            say(f"{wanted.folder}: up to date")
            return
        say(_make(project, wanted, device, group, verify=verify))


def _show_plan(project: Project, wanted: CacheWanted, device: str) -> None:
    from kdpipe.dry_run import show_plan
    from kdpipe.known_rows import spare
    from kdpipe.questions import missing

    work = _work(project, wanted, device)
    todo, _ = spare(missing(work.asking, project.store), work.asking, wanted.folder)
    show_plan(work.asking, todo, project.store, wanted.folder, *work.plan(todo))


def _make(project: Project, wanted: CacheWanted, device: str, group: Group, *, verify: bool) -> str:
    """Ask what nobody has asked yet, and finish the cache; what to say of it."""
    from kdpipe import teacher
    from kdpipe.known_rows import spare
    from kdpipe.progress import counted

    store, corpus, work = project.store, wanted.corpus, _work(project, wanted, device)
    # Until the manifest is there, nothing says that the shards are still wanted.
    with group.lock(store.lock, "the store", shared=True):
        found = _todo(work.asking, store, group, verify=verify)
        todo, known = spare(found, work.asking, wanted.folder)
        rows = sum(len(item.unread) for item in todo)
        work.answer([*group.mine(todo)], known)
        group.wait()
        facts = work.facts()
        if group.leads:
            inputs = wanted.inputs(work.asking.dtype)
            teacher.finish(work.asking, facts, store, wanted.folder, inputs)
    numerics = "" if wanted.teacher is None else f" in {facts.dtype}"
    if facts.difference is not None:
        sample, cosine = facts.difference.rows, facts.difference.min_cosine
        numerics += f" (cosine to fp32 at least {cosine:.5f} on {counted(sample, 'row')})"
    return (
        f"{wanted.folder}: {counted(len(corpus.facts.blocks), 'block')}, {len(todo):,} of them new:"
        f" {work.did} {rows:,} of {counted(facts.rows, 'row')}{numerics}"
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


def _work(project: Project, wanted: CacheWanted, device: str) -> _Work:
    if wanted.teacher is None:
        return _import(project, wanted)
    return _ask(project, wanted, wanted.teacher, device)


def _ask(project: Project, wanted: CacheWanted, who: Teacher, device: str) -> _Work:
    from kdpipe import teacher
    from kdpipe.device import pick_device, pick_dtype
    from kdpipe.dry_run import pace
    from kdpipe.questions import Asking

    where = pick_device(device)
    dtype = wanted.finished_in() or pick_dtype(wanted.spec.dtype, where)
    asking = Asking(wanted.corpus, wanted.said_by, wanted.spec, dtype)

    def load() -> Encoder:
        encoder = who.load().to(where)
        who.refuse_other(wanted.said_by)
        return encoder

    def plan(todo: list[Todo]) -> tuple[Dims, str]:
        encoder = load()
        teacher.check(asking, encoder)
        return encoder.dims, pace(asking, todo, encoder)

    def answer(todo: list[Todo], known: Known | None) -> None:
        teacher.answer(asking, todo, project.store, load, known)

    def facts() -> CacheFacts:
        return teacher.facts(asking, project.store)

    return _Work(asking, plan, answer, facts, "the teacher read")


def _import(project: Project, wanted: CacheWanted) -> _Work:
    from kdpipe import import_targets
    from kdpipe.importing import Importing

    asking = Importing(wanted.corpus, wanted.said_by, wanted.spec, "fp32")

    def plan(todo: list[Todo]) -> tuple[Dims, str]:
        names = " and ".join(file.file for file in wanted.spec.files)
        return import_targets.dims(asking, project.root), f"from {names}"

    def answer(todo: list[Todo], known: Known | None) -> None:
        assert known is None, "files say it all again"
        import_targets.take_over(asking, todo, project.store, project.root)

    def facts() -> CacheFacts:
        return import_targets.facts(asking, project.store)

    return _Work(asking, plan, answer, facts, "the files gave")
