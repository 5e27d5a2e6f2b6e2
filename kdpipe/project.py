"""Names of a pipeline file to folders on disk: where things are, and opening what is finished.

All paths are relative to the project folder, the one that commands are run in:
`artifacts/{corpora,caches,students}/<name>/`, `reports/<name>/` and `.kdpipe/` for store and runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kdpipe import artifact, modules, versions
from kdpipe.corpus import Corpus, open_corpus
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.hub import find_model
from kdpipe.modules import HeadSpec
from kdpipe.pipeline import Pipeline, TeacherSpec
from kdpipe.store import Store, store_root

if TYPE_CHECKING:
    from kdpipe.activations import Dims
    from kdpipe.cache import Cache
    from kdpipe.encoder import Encoder
    from kdpipe.fill_blocks import Reading
    from kdpipe.known_tokenizers import KnownTokenizer
    from kdpipe.tokenizer import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class Teacher:
    """A teacher's files, not loaded."""

    name: str
    spec: TeacherSpec
    folder: Path
    head: HeadSpec
    root: Path
    """The project."""
    mlm: bool = False
    """Whether it is asked for masked tokens."""

    @property
    def title(self) -> str:
        """Its hub id, or the name of its local folder: no path of this machine."""
        local = Path(self.spec.model).is_dir()
        return Path(self.spec.model).resolve().name if local else self.spec.model

    @property
    def tokenizer(self) -> Tokenizer:
        """What it reads text with."""
        return self._known_tokenizer.loaded

    @property
    def fingerprint(self) -> str:
        """That of its tokenizer, which is loaded for it only where no earlier run has done so."""
        return self._known_tokenizer.fingerprint

    @property
    def _known_tokenizer(self) -> KnownTokenizer:
        from kdpipe.known_tokenizers import tokenizer_of

        return tokenizer_of(self.folder, self.root)

    @property
    def identity(self) -> str:
        """sha256 of all that decides what it says."""
        return modules.encoder_identity(self.folder, self.head)

    def load(self) -> Encoder:
        """The model itself, on the CPU."""
        from kdpipe.load import load_encoder

        return load_encoder(self.folder, self.head, mlm=self.mlm)

    def refuse_other(self, identity: str) -> None:
        """Raises ArtifactError where it is not, or no more, the teacher of that identity."""
        if self.identity != identity:
            raise ArtifactError(
                f"{self.folder} was changed while it was read: run the same command again"
            )


@dataclass(frozen=True)
class Project:
    """A pipeline file in its project folder."""

    file: Path
    pipeline: Pipeline
    root: Path
    _opened: dict[Path, tuple[object, Any]] = field(default_factory=dict, compare=False, repr=False)
    """Corpora and caches by folder, with what they depended on when they were opened."""

    @property
    def store(self) -> Store:
        """The shards that all caches share."""
        return Store(store_root(self.root))

    def texts_folder(self, name: str) -> Path:
        """Where augmented texts are or will be."""
        return self.root / "artifacts" / "texts" / name

    def corpus_folder(self, name: str) -> Path:
        """Where a corpus is or will be."""
        return self.root / "artifacts" / "corpora" / name

    def cache_folder(self, name: str) -> Path:
        """Where a cache is or will be."""
        return self.root / "artifacts" / "caches" / name

    def student_folder(self, name: str) -> Path:
        """Where a student is or will be."""
        return self.root / "artifacts" / "students" / name

    def report_folder(self, name: str) -> Path:
        """Where the report about a student is or will be."""
        return self.root / "reports" / name

    def lock(self, kind: str, name: str) -> Path:
        """The lock of one artifact."""
        return self.root / ".kdpipe" / "locks" / f"{kind}-{name}"

    def teacher(self, name: str, *, mlm: bool = False) -> Teacher:
        """A teacher's files, maybe to be asked for masked tokens.

        Raises:
            ArtifactError: they cannot be had.
        """
        spec = self.pipeline.teachers[name]
        folder = find_model(
            spec.model, revision=spec.revision, package=spec.package, sha256=spec.sha256
        )
        head = modules.head_of(folder, pooling=spec.pooling, normalize=spec.normalize)
        return Teacher(name, spec, folder, head, self.root, mlm)

    def reading(self, name: str) -> Reading:
        """How a corpus' text becomes tokens; raises UsageError for a limit beyond the positions."""
        from kdpipe.fill_blocks import Reading
        from kdpipe.known_tokenizers import tokenizer_of
        from kdpipe.word_tokenizer import MOST_WORDS, known_words

        spec = self.pipeline.corpora[name]
        if not isinstance(spec.tokenizer, str):
            words = known_words(spec, spec.tokenizer, self.root)
            return Reading(words, spec.max_seq_length or MOST_WORDS, spec.prompt or "")
        if spec.tokenizer in self.pipeline.teachers:
            folder = self.teacher(spec.tokenizer).folder
        else:
            folder = find_model(spec.tokenizer)
        positions = modules.position_limit(folder)
        limit = spec.max_seq_length or modules.own_limit(folder)
        if limit > positions:
            raise UsageError(
                f"{self.file}: corpora.{name}.max_seq_length is {limit}, {spec.tokenizer!r} has"
                f" positions for {positions} tokens: lower it"
            )
        prompt = modules.default_prompt(folder) if spec.prompt is None else spec.prompt
        return Reading(tokenizer_of(folder, self.root), limit, prompt)

    def corpus(self, name: str) -> Corpus:
        """A finished corpus; raises ArtifactError where there is none, or another section's."""
        folder, remedy = self.corpus_folder(name), f"run 'kdpipe tokenize {self.file} {name}'"
        found = self._once(folder, lambda: open_corpus(folder, remedy))
        meaning = {"meaning": str(versions.TOKENIZE)}
        spec = self.pipeline.corpora[name].identity()
        artifact.refuse_stale(folder, found.manifest, spec, meaning, remedy)
        return found

    def cache(self, name: str, corpus: Corpus) -> Cache:
        """A finished cache of `corpus`.

        Raises:
            ArtifactError: there is none, or it is that of another section or of another teacher.
        """
        from kdpipe.cache import open_cache
        from kdpipe.questions import cache_identity

        folder, remedy = self.cache_folder(name), f"run 'kdpipe cache-teacher {self.file} {name}'"
        found = self._once(folder, lambda: open_cache(folder, corpus, remedy), corpus.digest)
        spec = self.pipeline.caches[name]
        inputs = {"meaning": str(versions.CACHE_TEACHER)}
        if (teacher := self.teacher_in(name)) is not None:
            inputs["teacher"] = teacher.identity
        artifact.refuse_stale(folder, found.manifest, cache_identity(spec), inputs, remedy)
        return found

    def _once(self, folder: Path, open_it: Callable[[], T], *other: str) -> T:
        """What was opened before, where its manifest and all `other` are still the same."""
        state = (artifact.digest_of(folder), *other)
        if folder not in self._opened or self._opened[folder][0] != state:
            self._opened[folder] = state, open_it()
        found: T = self._opened[folder][1]
        return found

    def inputs(self, student: str) -> tuple[Corpus, dict[str, Cache]]:
        """What a student is trained on: a finished corpus and caches of it.

        Raises:
            UsageError: caches of several corpora.
            ArtifactError: something is not made yet.
        """
        spec = self.pipeline.students[student]
        try:
            name = spec.corpus_of(self.pipeline.caches)
        except UsageError as error:
            raise UsageError(f"{self.file}: {error}") from None
        corpus, caches = self.corpus(name), self.pipeline.caches
        read_by = {other: self.corpus(other) for other in {caches[c].corpus for c in spec.caches}}
        return corpus, {c: self.cache(c, read_by[caches[c].corpus]) for c in spec.caches}

    def teacher_of(self, student: str) -> Teacher | None:
        """The teacher of a student's first cache; None without one that is run."""
        first = next(iter(self.pipeline.students[student].caches), None)
        return None if first is None else self.teacher_in(first)

    def teacher_in(self, name: str) -> Teacher | None:
        """The teacher of a cache; None where files gave it."""
        cache = self.pipeline.caches[name]
        if cache.teacher is None:
            return None
        return self.teacher(cache.teacher, mlm=cache.asks_mlm)

    def giver_of(self, student: str, own: Teacher | None) -> Teacher | None:
        """The teacher whose layers a student has: its own, or the first of all with its body."""
        whole = self.pipeline.trained_as(student)
        found = (self.teacher_of(name) for name in self.pipeline.trained_in(whole))
        return own if whole == student else next((one for one in found if one is not None), None)

    def imported_by(self, student: str) -> Dims | None:
        """Width and classes of a student's first cache, where files gave it and no teacher did."""
        first = next(iter(self.pipeline.students[student].caches), None)
        if first is None or not self.pipeline.caches[first].files:
            return None
        return self.cache(first, self.corpus(self.pipeline.caches[first].corpus)).dims


def open_project(file: Path) -> Project:
    """The pipeline in `file`, with the current folder as its project."""
    from kdpipe.pipeline import load_pipeline

    return Project(file, load_pipeline(file), Path())


def same_tokenizer(teacher: Teacher, corpus: Corpus, name: str) -> None:
    """Refuse a corpus that was tokenised for another model; raises ArtifactError."""
    found = teacher.fingerprint
    if found != corpus.facts.tokenizer:
        raise ArtifactError(
            f"{corpus.folder} was tokenised for another model (tokenizer"
            f" {corpus.facts.tokenizer[:12]}) than teacher {teacher.name!r} (tokenizer"
            f" {found[:12]}): set tokenizer: {teacher.name} for that corpus and run"
            " 'kdpipe tokenize'"
        )
    positions = modules.position_limit(teacher.folder)
    if corpus.facts.longest > positions:
        raise ArtifactError(
            f"{corpus.folder} has rows of {corpus.facts.longest} tokens, teacher {teacher.name!r}"
            f" has positions for {positions}: lower max_seq_length and run 'kdpipe tokenize'"
        )
