"""What a cache of files asks: the digest of all that they say stands for a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdpipe import io
from kdpipe.corpus import BlockFacts
from kdpipe.pipeline import CacheSpec
from kdpipe.questions import Asking
from kdpipe.targets import Question

_SAYS_NOTHING = {"file", "storage"}
"""Keys of a file that do not change its vectors: where it is, and how a shard keeps them."""


@dataclass(frozen=True)
class Importing(Asking):
    """Files in place of a teacher; `teacher` is the digest of all that they say."""

    def full(self, block: BlockFacts, question: Question) -> dict[str, Any]:
        """The whole question, the digest of which names the shard.

        Rows are found by number or by text, of which the tokens of a block tell neither: the name
        of a block stands for all that is in it.
        """
        return super().full(block, question) | {"tokens": block.name}


def identity_of(spec: CacheSpec, root: Path) -> str:
    """What stands for a teacher; raises ArtifactError where a file is not there."""
    said = [
        [
            {key: value for key, value in file.identity().items() if key not in _SAYS_NOTHING},
            io.digest_file(file.path(root)),
        ]
        for file in spec.files
    ]
    return io.identity(said)
