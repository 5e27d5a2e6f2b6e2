from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from kdpipe import freed_memory

PROGRAM = """
import resource
from kdpipe.freed_memory import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"x") * 50_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
again = faults()
keep_freed()
faults()
print(again, faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_large_pieces_are_not_cleared_again_and_again() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 1000 > 100 > after


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_is_looked_for(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", None)
    freed_memory.keep_freed()
