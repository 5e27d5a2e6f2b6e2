"""What the bytes that a stage makes mean, as one integer per stage.

Add 1 when the same question gets another answer: other tokens, activations, weights or numbers in a
report; or the same ones in a new version of a format. `kdpipe repro` writes these into the commands
of dvc.yaml, so that DVC reruns the stage and what follows it. A reformatted, renamed or faster
stage keeps its number.
"""

from __future__ import annotations

AUGMENT = 3
TOKENIZE = 2
CACHE_TEACHER = 3
TRAIN = 2
EVALUATE = 1
