"""Stage `cache-teacher`: let the teacher speak once, and keep what it said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kdpipe import versions
from kdpipe.options import Device, DryRun, Names, PipelineFile, StageVersion, expect_version

if TYPE_CHECKING:
    from kdpipe.project import Project

Verify = Annotated[
    bool, typer.Option("--verify", help="Read every shard and compute damaged ones again.")
]


def cache_teacher(
    pipeline: PipelineFile,
    names: Names = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    verify: Verify = False,
    stage_version: StageVersion = None,
) -> None:
    """Run the teacher over a corpus, once: safetensors files in artifacts/caches/NAME.

    What was computed before, for any cache, is found in the store and not computed again; a killed
    run loses at most the block it was in.

    Example: kdpipe cache-teacher pipelines/demo.yaml docs-minilm --dry-run
    """
    from kdpipe.pipeline import choose
    from kdpipe.project import open_project

    expect_version(stage_version, versions.CACHE_TEACHER)
    project = open_project(pipeline)
    for name in choose(project.pipeline.caches, names, "cache"):
        _cache(project, name, device, dry_run=dry_run, verify=verify)


def _cache(project: Project, name: str, device: str, *, dry_run: bool, verify: bool) -> None:
    from kdpipe import artifact, cache, io, teacher
    from kdpipe.device import pick_device, pick_dtype
    from kdpipe.dry_run import show_plan
    from kdpipe.progress import say
    from kdpipe.project import same_tokenizer

    spec, folder = project.pipeline.caches[name], project.cache_folder(name)
    corpus, who = project.corpus(spec.corpus), project.teacher(spec.teacher)
    same_tokenizer(who, corpus, spec.corpus)
    where = pick_device(device)
    asking = teacher.Asking(corpus, who.identity, spec, pick_dtype(spec.dtype, where))
    inputs = {
        "meaning": str(versions.CACHE_TEACHER),
        "corpus": corpus.digest,
        "teacher": asking.teacher,
        "dtype": asking.dtype,
    }
    if dry_run:
        todo = teacher.missing(asking, project.store)
        show_plan(asking, todo, project.store, folder, lambda: who.load().to(where))
        return
    with io.lock(project.lock("cache", name), f"cache {name}"):
        identity = teacher.cache_identity(spec)
        if not verify and artifact.is_current(folder, cache.KIND, identity, inputs):
            say(f"{folder}: up to date")
            return
        io.sweep(project.store.root)
        todo = teacher.missing(asking, project.store, verify=verify)
        rows = sum(item.block.rows for item in todo)
        facts = teacher.answer(asking, todo, project.store, lambda: who.load().to(where))
        teacher.finish(asking, facts, project.store, folder, inputs)
    difference = ""
    if facts.difference is not None:
        sample, cosine = facts.difference.rows, facts.difference.min_cosine
        difference = f" (cosine to fp32 at least {cosine:.5f} on {sample} rows)"
    say(
        f"{folder}: {len(corpus.facts.blocks):,} blocks, {len(todo):,} of them new: the teacher"
        f" read {rows:,} of {facts.rows:,} rows in {facts.dtype}{difference}"
    )
