"""What `cache-teacher` would do: blocks, bytes, time, free disk, and why each is not found."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kdpipe import artifact, cache, passes, storage
from kdpipe.activations import Dims
from kdpipe.corpus import BlockFacts
from kdpipe.encoder import Encoder, keep_in
from kdpipe.errors import ArtifactError
from kdpipe.questions import Asking, Todo
from kdpipe.store import Store
from kdpipe.targets import Question

_TITLE = "what the teacher still has to say"


def show_plan(
    asking: Asking, todo: list[Todo], store: Store, folder: Path, dims: Dims, how: str
) -> None:
    """Print the plan as a table; `dims` are those of who is asked, `how` is told of the work."""
    # A log has no width of its own: no cell should be broken there.
    console = Console(width=None if sys.stdout.isatty() else 160)
    facts = asking.corpus.facts
    title = "what is still to be read from files" if asking.spec.files else _TITLE
    table = Table(title=f"{folder}: {title}", title_justify="left")
    for column in ("question", "blocks", "rows", "tokens", "bytes/token", "bytes", "why"):
        table.add_column(column, justify="left" if column in {"question", "why"} else "right")
    why, total = reasons(asking, folder), 0
    for question in asking.questions:
        items = [item for item in todo if question in item.questions]
        tokens = sum(item.tokens for item in items)
        rows = sum(len(item.unread) for item in items)
        size = bytes_of(question, [item.block for item in items], dims)
        total += size
        counts = Counter(why(question, item) for item in items)
        table.add_row(
            question.name,
            f"{len(items):,} of {len(facts.blocks):,}",
            f"{rows:,}",
            f"{tokens:,}",
            f"{bytes_of(question, facts.blocks, dims) / facts.tokens:,.0f}",
            f"{size:,}",
            "; ".join(f"{reason} ({count})" for reason, count in counts.items()) or "all found",
        )
    console.print(table)
    free = free_at(store.root)
    console.print(f"{total:,} bytes to write, {free:,} free at {store.root}; {how}")
    if total > free:
        console.print("this does not fit: free some space, or keep less (int8, fewer layers)")


def free_at(root: Path) -> int:
    """Bytes that are free where a folder is or will be."""
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def pace(asking: Asking, todo: list[Todo], encoder: Encoder) -> str:
    """How long the teacher will take, measured for about two seconds."""
    seconds = 0.0
    if todo:
        keep_in(encoder, asking.dtype)
        rate = passes.seconds_per_token(asking, todo, encoder)
        seconds = rate * sum(item.tokens for item in todo)
    return f"about {_time(seconds)} on {encoder.device.type} in {asking.dtype}"


def reasons(asking: Asking, folder: Path) -> Callable[[Question, Todo], str]:
    """Why an answer is not found, told from the cache that was there before."""
    try:
        manifest, _ = artifact.open_finished(folder, cache.KIND, "")
        old = cache.CacheFacts.model_validate(manifest.facts)
    except (ArtifactError, ValueError):
        return lambda question, item: "never asked"
    who = "what the files say" if asking.spec.files else "the teacher"
    changes = {
        f"{who} changed": old.teacher != asking.teacher,
        "the tokenizer changed": old.tokenizer != asking.corpus.facts.tokenizer,
        "the compute dtype changed": old.dtype != asking.dtype,
    }
    first = next((reason for reason, changed in changes.items() if changed), None)

    def why(question: Question, item: Todo) -> str:
        if first is not None:
            return first
        return "new or changed rows" if question in old.questions else "never asked"

    return why


def bytes_of(question: Question, blocks: Sequence[BlockFacts], dims: Dims) -> int:
    """Bytes of the answers to a question about blocks."""
    part = question.what
    vectors = sum(block.vectors(part) for block in blocks)
    size = storage.bytes_of if part.top_k is None else storage.bytes_of_largest
    about_rows = sum(block.rows for block in blocks) * (20 if part.per_token else 16)
    return size(vectors, dims.width(part), question.storage) + about_rows


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
