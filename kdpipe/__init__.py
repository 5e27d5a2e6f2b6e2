"""Distil large text encoders into small ones: the teacher speaks once, every student listens.

The command line is `kdpipe`; the library behind it is importable piece by piece:

    kdpipe.pipeline     what a pipeline file can say
    kdpipe.corpus       the tokenised corpus            kdpipe.write_corpus  making one
    kdpipe.cache        what a teacher said about it    kdpipe.teacher       making it say so
    kdpipe.train        fit(): a generator of steps     kdpipe.job           a whole training job
    kdpipe.losses       formulas                        kdpipe.evaluate      measuring

`docs/architecture.md` shows how they fit together.
"""

__version__ = "0.1.0"
