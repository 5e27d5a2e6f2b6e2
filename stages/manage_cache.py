"""Stage `cache`: what is in the store of shards, whether it is whole, and what nobody needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from kdpipe.store import Store
    from kdpipe.store_keeping import Line

Action = Annotated[
    Literal["ls", "gc", "verify"],
    typer.Argument(metavar="ACTION", help="ls, verify or gc.", show_default=False),
]
Remove = Annotated[
    bool, typer.Option("--remove", help="gc: remove what it would only list otherwise.")
]
Repair = Annotated[
    bool, typer.Option("--repair", help="verify: drop what is damaged, to be computed again.")
]


def cache(action: Action, remove: Remove = False, repair: Repair = False) -> None:
    """Look after the store of shards, which all caches share: .kdpipe/store, or $KDPIPE_STORE.

    ls: the shards by teacher and question, and which caches of this project use them.

    verify: read every shard and hold it against its receipt; exit code 3 where one is damaged.

    gc: list the shards that no finished cache names, of this project or (by hard links) of another;
    with --remove, remove them. A cache that was stopped is not finished: run it to its end before.

    Example: kdpipe cache ls
    """
    from pathlib import Path

    from kdpipe.errors import UsageError
    from kdpipe.store import Store, store_root

    if (remove and action != "gc") or (repair and action != "verify"):
        wrong, right = ("--remove", "gc") if remove and action != "gc" else ("--repair", "verify")
        raise UsageError(f"{wrong} is an option of 'kdpipe cache {right}'")
    store = Store(store_root(Path()))
    if action == "verify":
        _verify(store, repair=repair)
    elif action == "gc":
        _gc(store, Path(), remove=remove)
    else:
        _ls(store, Path())


def _ls(store: Store, root: Path) -> None:
    from kdpipe.progress import counted, human_bytes
    from kdpipe.store_keeping import ledger

    lines = ledger(store, root)
    _show(lines)
    shards = counted(sum(line.shards for line in lines), "shard")
    size = sum(line.bytes for line in lines)
    unnamed = sum(shard.bytes for line in lines for shard in line.unnamed)
    typer.echo(f"{store.root}: {shards}, {human_bytes(size)}; {human_bytes(unnamed)} in no cache")


def _gc(store: Store, root: Path, *, remove: bool) -> None:
    from kdpipe.progress import counted, human_bytes
    from kdpipe.store_keeping import collect

    lines = collect(store, root, remove=remove)
    _show(lines)
    shards = [shard for line in lines for shard in line.unnamed]
    size = human_bytes(sum(shard.bytes for shard in shards))
    what = f"{store.root}: {counted(len(shards), 'shard')}, {size}, in no cache"
    if remove:
        typer.echo(f"{what}: removed")
    else:
        typer.echo(f"{what}; 'kdpipe cache gc --remove' removes them" if shards else what)


def _verify(store: Store, *, repair: bool) -> None:
    from kdpipe.errors import ArtifactError
    from kdpipe.progress import Progress, counted
    from kdpipe.store_keeping import shards, verify

    there = [*shards(store)]
    with Progress("verify", sum(shard.bytes for shard in there), "bytes") as bar:
        found = verify(store, repair=repair, advance=bar.advance)
    for one in found:
        typer.echo(one.line)
    bad = sum(one.key is not None for one in found)
    foreign, total = len(found) - bad, counted(len(there), "shard")
    if bad and repair:
        again = "run 'kdpipe cache-teacher' with --verify, which computes them again"
        typer.echo(f"{store.root}: {bad:,} of {total} dropped: {again}")
    elif bad:
        raise ArtifactError(
            f"{store.root}: {bad:,} of {total} damaged: run 'kdpipe cache verify --repair', which"
            " drops what is damaged"
        )
    if foreign:
        raise ArtifactError(
            f"{store.root}: {counted(foreign, 'file')} not of the store: move away what is named"
            " above"
        )
    if not bad:
        typer.echo(f"{store.root}: {total}, all as their receipts say")


def _show(lines: list[Line]) -> None:
    from kdpipe import tables

    if lines:
        tables.show(
            tables.table(
                ("teacher", "question", "shards ", "bytes ", "used by", "in no cache ", "bytes "),
                (
                    (
                        line.teacher,
                        line.question,
                        f"{line.shards:,}",
                        f"{line.bytes:,}",
                        ", ".join(sorted(line.used_by)),
                        f"{len(line.unnamed):,}",
                        f"{sum(shard.bytes for shard in line.unnamed):,}",
                    )
                    for line in lines
                ),
            )
        )
