"""`python -m kdpipe` is the command `kdpipe`."""

from __future__ import annotations

import sys

from kdpipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
