"""What a DVC that died leaves behind and cannot get past itself.

DVC edits its files in place, so a kill, a power cut or a full disk can leave one of them torn, and
names in its file of locks the numbers of processes, which are given again later. It then does
nothing at all. Without these files it runs every stage, and the stages find what is finished.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

from kdpipe import io
from kdpipe.errors import LockedError
from kdpipe.progress import say

LOCK = "dvc.lock"
_DVC = re.compile(r"(^|[/ ])dvc([/ ]|$)")
"""In the command line of a DVC."""


def dvc_folder(root: Path) -> Path | None:
    """Where DVC keeps what it knows of the project that `root` is in."""
    above = (root.resolve(), *root.resolve().parents)
    return next((path / ".dvc" for path in above if (path / ".dvc").is_dir()), None)


def removed(root: Path) -> bool:
    """Remove what is torn or in the name of the dead, and say so; whether there was anything."""
    project, left = dvc_folder(root), list[Path]()
    if project is None or not (project / "tmp").is_dir():
        return False
    states, owners = root / LOCK, project / "tmp" / "rwlock"
    # A DVC that is alive holds these while it edits them.
    guards = [io.lock(project / "tmp" / name, name) for name in ("lock", "rwlock.lock")]
    with contextlib.suppress(LockedError), guards[0], guards[1]:
        left += [states] if states.is_file() and is_torn(states) else []
        left += [owners] if owners.is_file() and is_nobodys(owners) else []
        for path in left:
            io.remove(path)
            say(f"{os.path.relpath(path, root)} was left by a DVC that died: removed; once more:")
    return bool(left)


def is_torn(states: Path) -> bool:
    """Whether DVC did not get to the end: of each stage it writes sizes of the outputs last."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    text = states.read_text("utf-8", "replace")
    # A person has to choose between the sides of a merge.
    if "<<<<<<<" in text:
        return False
    try:
        stages = YAML(typ="safe").load(text)["stages"].values()
        return not all(out["size"] >= 0 for stage in stages for out in stage["outs"])
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError):
        return True


def is_nobodys(owners: Path) -> bool:
    """Whether DVC's file of locks cannot be read, or no process that it names can be a DVC."""
    try:
        told = json.loads(owners.read_bytes())
        readers = [owner for found in told.get("read", {}).values() for owner in found]
        found = [*told.get("write", {}).values(), *readers]
        return bool(found) and not any(_may_run(owner["pid"], owner["cmd"]) for owner in found)
    except (ValueError, LookupError, TypeError, AttributeError):
        return True


def _may_run(process: int, command: str) -> bool:
    """Whether the process of this number may be the one that had this command line."""
    if not _DVC.search(command) or not Path("/proc/self").exists():
        return True
    try:
        words = Path(f"/proc/{process}/cmdline").read_text("utf-8", "replace")
    except OSError:
        return False
    return _DVC.search(words.replace("\0", " ")) is not None
