"""One file per command; installed as `kdpipe.stages` and found by entry point, never imported."""
