"""Tokenizers that were loaded before: their fingerprints are told without loading them.

To load one takes seconds of imports, and most commands only ask whether it is still the same. So
the fingerprint is kept in the project under the digest of all that decides it: the bytes of the
files, and who reads them. It is no part of any artifact; without it the tokenizer is loaded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kdpipe
from kdpipe import io, records, versions
from kdpipe.errors import ArtifactError
from kdpipe.modules import transformer_folder
from kdpipe.tokenizer import Tokenizer, load_tokenizer

_WEIGHTS = {".bin", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".safetensors"}
"""Suffixes of files that no tokenizer is read from."""


@dataclass(frozen=True)
class KnownTokenizer:
    """A tokenizer that is loaded once somebody reads text with it."""

    load: Callable[[], Tokenizer]
    made_from: Callable[[], Any] | None
    """All that it is made from, in the form of JSON; None: nobody can say that."""
    root: Path
    """The project."""

    @functools.cached_property
    def loaded(self) -> Tokenizer:
        """The tokenizer itself; raises ArtifactError where it cannot be had."""
        return self.load()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Its fingerprint, as it was the last time; raises as `loaded` does."""
        return self._remembered() or self.confirmed()

    def confirmed(self) -> str:
        """The fingerprint of what is loaded now, which is remembered."""
        found = self.loaded.fingerprint
        if self._place is not None and found != self._remembered():
            io.make_folder(self._place.parent)
            io.sweep(self._place.parent)
            record = {"made_from": self._place.stem, "fingerprint": found}
            io.write_file(self._place, records.seal(io.canonical(record)))
        return found

    @functools.cached_property
    def _place(self) -> Path | None:
        """Where its fingerprint is kept."""
        if self.made_from is None:
            return None
        readers = [kdpipe.__version__, versions.TOKENIZE]
        readers += [version(name) for name in ("tokenizers", "transformers")]
        name = io.identity([self.made_from(), readers])
        return self.root / ".kdpipe" / "tokenizers" / f"{name}.json"

    def _remembered(self) -> str | None:
        try:
            record = {} if self._place is None else records.read_sealed(self._place)
        except (FileNotFoundError, ArtifactError):
            return None
        about_this = self._place is not None and record.get("made_from") == self._place.stem
        return record.get("fingerprint") if about_this else None


def tokenizer_of(folder: Path, root: Path) -> KnownTokenizer:
    """The tokenizer of a model folder."""
    inner = transformer_folder(folder)

    def files() -> dict[str, str]:
        found = (path for path in sorted(inner.iterdir()) if path.suffix not in _WEIGHTS)
        return {path.name: io.digest_file(path, "sha256") for path in found if path.is_file()}

    return KnownTokenizer(lambda: load_tokenizer(inner), files, root)
