"""An artifact and all that it was made from, read from end to end and held against its manifests.

A manifest names its inputs by the digests of their manifests, and these stand beside it: the chain
is followed back to the text. What is not on this disk is said, and is no mistake.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kdpipe import artifact, corpus, importing
from kdpipe.artifact import MANIFEST, Manifest
from kdpipe.augment import AugmentationSpec, write
from kdpipe.cache import KIND as CACHE
from kdpipe.contents import REMEDY, facts_of, problems
from kdpipe.corpus import Corpus, CorpusFacts
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.made_from import KIND as STUDENT
from kdpipe.pipeline import CacheSpec, CorpusSpec, StudentSpec
from kdpipe.progress import Progress, clock_tenths, counted, human_bytes
from kdpipe.sources import Source
from kdpipe.write_corpus import named_sources

PLACES = {"texts": write.KIND, "corpora": corpus.KIND, "caches": CACHE, "students": STUDENT}
"""Folders of `artifacts/`."""
_ELSEWHERE = "run the stage that makes it"


@dataclass
class Verdict:
    """What is known of one artifact."""

    folder: Path
    manifest: Manifest | None = None
    """None where it cannot be read."""
    digest: str = ""
    problems: list[str] = field(default_factory=list)
    """A line for each; none where all is right."""
    unchecked: list[str] = field(default_factory=list)
    """What was not there to be looked at."""
    corpus: Corpus | None = None
    """Of a cache, where it is there."""
    seconds: float = 0.0

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum({part.name: part.bytes for part in self._files}.values())

    @property
    def line(self) -> str:
        """The verdict for people."""
        word = "BAD" if self.problems else "ok"
        files = counted(len({part.name for part in self._files}), "file")
        size = human_bytes(self.bytes)
        return f"{word} {self.folder}: {files}, {size}, {clock_tenths(self.seconds)}"

    @property
    def _files(self) -> tuple[artifact.Part, ...]:
        return () if self.manifest is None else self.manifest.files


def verify(paths: Sequence[Path]) -> Iterator[Verdict]:
    """The verdict on every artifact in `paths`, and on all that they were made from, text first.

    Raises:
        ArtifactError: there is no artifact in one of them.
    """
    chain = _Chain()
    for path in paths:
        found = [*artifacts_in(path)]
        if not found:
            state = "there is no artifact in it" if path.exists() else "it does not exist"
            raise ArtifactError(f"{path}: {state}: name the folder of an artifact, or one above")
        for folder in found:
            chain.follow(folder)
    with Progress("verify", sum(one.bytes for one in chain.order), "bytes") as bar:
        for one in chain.order:
            began = time.monotonic()
            if one.manifest is not None:
                bar.advance(0, note=str(one.folder))
                one.problems += problems(one.folder, one.manifest, one.corpus, bar.advance)
            one.seconds = time.monotonic() - began
            yield one


def artifacts_in(path: Path) -> Iterator[Path]:
    """The folder itself, or those below it; unfinished ones too, hidden ones not."""
    if _is_place(path) or _is_ours(path / MANIFEST):
        yield path
    elif path.is_dir():
        for folder in sorted(path.iterdir()):
            if folder.is_dir() and not folder.name.startswith(".") and not folder.is_symlink():
                yield from artifacts_in(folder)


def root_of(folder: Path) -> Path | None:
    """The project in which an artifact lies; None where it lies in none."""
    return Path(os.path.normpath(folder / "../../..")) if _is_place(folder) else None


def _is_place(folder: Path) -> bool:
    parts = Path(os.path.abspath(folder)).parts[-3:]
    return parts[:1] == ("artifacts",) and parts[1] in PLACES and len(parts) == 3


def _is_ours(manifest: Path) -> bool:
    try:
        # A pipe would never begin.
        if not manifest.is_file():
            return False
        with manifest.open("rb") as file:
            return b'"kdpipe.' in file.read(4096)
    except OSError:
        return False


class _Chain:
    """Artifacts, each behind all that it was made from."""

    def __init__(self) -> None:
        self.order: list[Verdict] = []
        self._met: dict[str, Verdict] = {}
        self._digests: dict[Path, str | None] = {}

    def follow(self, folder: Path) -> Verdict:
        """Open an artifact and all that it was made from."""
        place = os.path.abspath(folder)
        if place in self._met:
            return self._met[place]
        one = self._met[place] = Verdict(folder)
        try:
            one.manifest, one.digest = artifact.open_any(folder, _ELSEWHERE)
        except ArtifactError as error:
            one.problems.append(str(error))
        else:
            self._inputs(one, one.manifest, root_of(folder))
        self.order.append(one)
        return one

    def _inputs(self, one: Verdict, manifest: Manifest, root: Path | None) -> None:
        if root is None:
            one.unchecked.append(f"what {one.folder} was made from (it lies in no project)")
            return
        inputs = {
            write.KIND: self._of_texts,
            corpus.KIND: self._of_corpus,
            CACHE: self._of_cache,
            STUDENT: self._of_student,
        }
        try:
            inputs[manifest.format](one, manifest, root)
        except ValueError as error:
            reason = ", ".join(line.strip() for line in str(error).splitlines()[1:3])
            one.problems.append(
                f"{one.folder / MANIFEST} has no section of a {manifest.format} ({reason}):"
                f" {REMEDY[manifest.format]}"
            )

    def _of_texts(self, one: Verdict, manifest: Manifest, root: Path) -> None:
        spec = AugmentationSpec.of_identity(manifest.spec)
        sources = {f"source.{number}": source for number, source in enumerate(spec.sources)}
        self._sources(one, manifest, root, sources)
        tools = [name for name in manifest.inputs if name.startswith("method.")]
        one.unchecked += [_input(one, manifest, name) for name in tools]

    def _of_corpus(self, one: Verdict, manifest: Manifest, root: Path) -> None:
        spec = CorpusSpec.of_identity(manifest.spec)
        self._sources(one, manifest, root, named_sources(spec))

    def _of_cache(self, one: Verdict, manifest: Manifest, root: Path) -> None:
        spec = CacheSpec.of_identity(manifest.spec)
        found = self._artifact(one, manifest, root, "corpus", "corpora", spec.corpus)
        if found is not None and found.manifest is not None:
            try:
                facts = facts_of(CorpusFacts, found.folder, found.manifest)
                one.corpus = Corpus(found.folder, found.manifest, found.digest, facts)
            except ArtifactError:
                one.unchecked.append(f"{one.folder} against {found.folder}, which is damaged")
        if not spec.files:
            one.unchecked.append(_input(one, manifest, "teacher"))
            return
        names = ", ".join(file.file for file in spec.files)
        self._state(one, manifest, "teacher", names, lambda: importing.identity_of(spec, root))

    def _of_student(self, one: Verdict, manifest: Manifest, root: Path) -> None:
        spec = StudentSpec.of_identity(manifest.spec)
        self._artifact(one, manifest, root, "corpus", "corpora", spec.corpus)
        for name in spec.caches:
            self._artifact(one, manifest, root, f"cache.{name}", "caches", name)
        for name in sorted({"start", "body"} & manifest.inputs.keys()):
            one.unchecked.append(_input(one, manifest, name))
        for name in sorted({"vectors", "config"} & manifest.inputs.keys()):
            shown = str(getattr(spec.model, {"config": "config_file"}.get(name, name), name))
            self._state(one, manifest, name, shown, lambda: spec.model.inputs(root)[name])  # noqa: B023 - called at once

    def _sources(
        self, one: Verdict, manifest: Manifest, root: Path, sources: Mapping[str, Source]
    ) -> None:
        for name, source in sources.items():
            try:
                paths = source.paths(root)
            except (ArtifactError, UsageError) as error:
                one.unchecked.append(f"{name} of {one.folder} ({_reason(error)})")
                continue
            if not paths:
                one.unchecked.append(_input(one, manifest, name))
                continue
            self._state(one, manifest, name, ", ".join(paths), partial(source.state, root))
            # A corpus may read texts that were made, too.
            for path in paths:
                for folder in filter(_is_place, (root / path, (root / path).parent)):
                    self.follow(folder)

    def _state(
        self, one: Verdict, manifest: Manifest, name: str, shown: str, compute: Callable[[], str]
    ) -> None:
        """Hold an input that is files against the digest of these."""
        try:
            found = compute()
        except (ArtifactError, UsageError) as error:
            one.unchecked.append(f"{name} of {one.folder} ({_reason(error)})")
            return
        if found != manifest.inputs.get(name):
            one.problems.append(
                f"{one.folder}: {name} ({shown}) is not what it was made from: make it again, or"
                " put back what was there"
            )

    def _artifact(
        self, one: Verdict, manifest: Manifest, root: Path, name: str, kind: str, known: str | None
    ) -> Verdict | None:
        """Follow an input that is an artifact: the one of that digest, whatever it is called."""
        wanted, place = manifest.inputs.get(name, ""), root / "artifacts" / kind
        there = sorted(path for path in place.glob("[!.]*/"))
        named = place / known if known is not None else None
        for folder in sorted(there, key=lambda path: path != named):
            if self._digest(folder) == wanted:
                return self.follow(folder)
        if named is None or self._digest(named) is None:
            one.unchecked.append(_input(one, manifest, name))
            return None
        self.follow(named)
        one.problems.append(
            f"{one.folder} was made from another {name} ({_short(wanted)}) than {named} is"
            f" ({_short(self._digest(named) or '')}): make it again, or put back what was there"
        )
        return None

    def _digest(self, folder: Path) -> str | None:
        if folder not in self._digests:
            try:
                self._digests[folder] = artifact.digest_of(folder)
            except OSError:
                self._digests[folder] = None
        return self._digests[folder]


def _input(one: Verdict, manifest: Manifest, name: str) -> str:
    return f"{name} of {one.folder} ({_short(manifest.inputs.get(name, 'not named'))})"


def _reason(error: Exception) -> str:
    return str(error).partition(": ")[0]


def _short(digest: str) -> str:
    return digest[:12] if re.fullmatch("[0-9a-f]{64}", digest) else digest
