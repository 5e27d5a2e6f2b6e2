"""What kdpipe is measured by: each file is one benchmark, which runs without arguments."""

import os

# Before any library is imported that shows bars, or asks the hub about models that are here.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
