"""Programs in the environment of the peers: what kdpipe is measured beside, used as it asks for.

Each is run by `benchmarks.kit.Peer`, needs nothing of kdpipe, and has made all that is not measured
when it says `ready`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable


def serve(work: Callable[[], object]) -> None:
    """Do the work once for each line of stdin, as `benchmarks.kit.Peer` writes them."""
    print("ready", flush=True)
    for _ in sys.stdin:
        work()
        print("done", flush=True)
