"""What the bytes that a stage makes mean, as one integer per stage.

Add 1 when the same question gets another answer: other tokens, activations, weights or numbers in a
report. `kdpipe repro` writes these into the commands of dvc.yaml, so that DVC reruns the stage and
what follows it. A reformatted, renamed or faster stage keeps its number.
"""

from __future__ import annotations

AUGMENT = 2
TOKENIZE = 1
CACHE_TEACHER = 2
TRAIN = 1
EVALUATE = 1
