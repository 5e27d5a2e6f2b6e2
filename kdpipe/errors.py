"""What can go wrong, as a small tree; the exit code of the command line is a property of the class.

    KdpipeError            1   never raised itself
      UsageError           2   the command line or the pipeline file is wrong
      ArtifactError        3   an input is missing, damaged, unfinished or made for something else
      LockedError          4   another process is writing the same artifact
      StorageError         5   the disk is full, read-only or failing
      ResourceError        6   not enough memory
      NonFiniteError       7   the teacher or the training produced NaN or Inf

0 is success, 1 a bug in kdpipe, 130 and 143 are Ctrl-C and SIGTERM. A message is one line that says
what is wrong, with the values, and what to do next.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path


class KdpipeError(Exception):
    """Base of all errors that a user can act on."""

    exit_code = 1


class UsageError(KdpipeError):
    """The command line or the pipeline file is wrong."""

    exit_code = 2


class ArtifactError(KdpipeError):
    """An input is missing, damaged, unfinished or made for something else."""

    exit_code = 3


class LockedError(KdpipeError):
    """Another process is writing the same artifact."""

    exit_code = 4


class StorageError(KdpipeError):
    """The disk is full, read-only or failing."""

    exit_code = 5


class ResourceError(KdpipeError):
    """Not enough memory for the work."""

    exit_code = 6


class NonFiniteError(KdpipeError):
    """The teacher or the training produced NaN or Inf."""

    exit_code = 7


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FILE = {errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENXIO}
_KEPT = "what was finished is kept, the same command continues"


def explain(error: BaseException) -> KdpipeError | None:
    """Translate errors of the system and of native libraries; None where it is a bug.

    A full disk arrives as OSError (Python, pyarrow) or as SafetensorError with "os error 28";
    memory runs out as `out_of_memory` tells.
    """
    if isinstance(error, KdpipeError):
        return error
    text = str(error)
    native = re.search(r"\(os error (\d+)\)", text)
    number = error.errno if isinstance(error, OSError) else int(native[1]) if native else None
    where = getattr(error, "filename", None) or "the output folder"
    if number in _FULL:
        room = _room(error, where)
        return StorageError(
            f"no space left while writing {where}{room}: free some and rerun; {_KEPT}"
        )
    if number in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return StorageError(f"{where} may not be written or read: mend its permissions; {_KEPT}")
    if number == errno.EIO:
        return StorageError(f"the disk reports an I/O error at {where}: {_KEPT}")
    if number in _NO_FILE:
        return ArtifactError(f"{where} cannot be read ({os.strerror(number)}): put a file there")
    if number == errno.ENOTEMPTY:
        return LockedError(f"another process writes in {where}: wait for it to end, or stop it")
    if isinstance(error, FileNotFoundError):
        return ArtifactError(f"{where} does not exist: check the path, or run the stage before")
    if isinstance(error, IndexError) and "index out of range in self" in text:  # torch's embedding
        return ArtifactError(
            "a token or its position is none that the model knows: use the tokenizer that belongs"
            " to the model"
        )
    if out_of_memory(error):
        return ResourceError(f"out of memory: lower tokens_per_batch; {_KEPT}")
    return None


def _room(error: BaseException, where: str) -> str:
    """How large a file would have been, and how much is free, where that is known."""
    size, said = getattr(error, "size", None), []
    if size is not None:
        said.append(f"{size:,} bytes")
    # What a quota or a limit leaves cannot be asked.
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        folder = next(path for path in Path(where).absolute().parents if path.is_dir())
        said.append(f"{shutil.disk_usage(folder).free:,} are free")
    return f" ({', '.join(said)})" if said else ""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, a GPU's, or that of torch's allocator on the CPU.

    The last one has no type of its own.
    """
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)
