"""The pipeline file: what corpora, teachers, caches and students there are to make.

Everything here is identity (it decides what is made) unless its line says "speed only".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from kdpipe.augment import AugmentationSpec
from kdpipe.bodies import BodySpec, check_bodies
from kdpipe.config import Frozen, MisplacedError, Name, decode, nearest, read_yaml
from kdpipe.errors import UsageError
from kdpipe.objectives import AnyObjective, MatchLogits
from kdpipe.parts import Part, listed
from kdpipe.sources import Source
from kdpipe.students import FromTeacher, Shared, StudentModel
from kdpipe.targets import Imported, MaskedTokens, Target
from kdpipe.tasks import Fidelity, Labelled, Task
from kdpipe.train_spec import TrainSpec

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class WordTokenizer(Frozen):
    """A tokenizer whose tokens are the words of the corpus' own rows, but for those held out."""

    kind: Literal["words"]
    min_frequency: PositiveInt = 1
    """Words that come less often are unknown ones."""
    lowercase: bool = False
    """Whether words that differ in capitals alone are one."""


class CorpusSpec(Frozen):
    """Text, and how it becomes tokens."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    tokenizer: WordTokenizer | str
    """Name of a teacher whose tokenizer reads the text, or a folder or hub id of a model; or a
    tokenizer of words."""
    max_seq_length: PositiveInt | None = None
    """Longer rows are cut, special tokens kept; None takes the teacher's own limit, 128 words for a
    tokenizer of words."""
    prompt: str | None = None
    """Put before every text; None takes the teacher's default prompt, if it has one."""
    validation: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.02
    """Share of rows held out of training, chosen by the text itself: a row never changes sides."""
    validation_sources: tuple[Source, ...] = ()
    """What is held out in place of a share: all rows of these, which are read first, and of what
    they have nothing is trained on."""
    share: tuple[Share, Share] | None = None
    """Only rows of `sources` for which a number from 0 to 1, drawn by the text itself, is from the
    first of these to below the second; None: all."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the held-out split, of `share` and of masked tokens."""
    mlm_probability: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of tokens that are hidden from all models, for masked language modelling; 0.15 is
    usual. None: none are."""
    deduplicate: bool = True
    """Keep only the first of equal texts."""
    max_rows: PositiveInt | None = None
    """Stop after so many rows of `sources`."""

    @property
    def every_source(self) -> tuple[Source, ...]:
        """Those whose rows are held out too, in the order in which they are read."""
        return (*self.validation_sources, *self.sources)

    @model_validator(mode="after")
    def _held_out_by_one_key(self) -> CorpusSpec:
        if self.validation_sources and "validation" in self.model_fields_set:
            raise ValueError(
                "keys 'validation' and 'validation_sources' both say what is held out: take one of"
                " them out"
            )
        return self

    @model_validator(mode="after")
    def _share_has_room(self) -> CorpusSpec:
        if self.share is not None and self.share[0] >= self.share[1]:
            raise ValueError(f"share {list(self.share)}: the first number must be below the second")
        return self


class TeacherSpec(Frozen):
    """A model to learn from: a Hugging Face encoder or a sentence-transformers folder."""

    model: str
    """A local folder, or a hub id."""
    revision: str | None = None
    """A commit, tag or branch of the hub; None is the default branch."""
    package: str | None = None
    """An installed Python package that carries the model's files: read in place of a download."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of `model.safetensors`: any other file is refused."""
    pooling: Literal["mean", "cls", "max", "lasttoken", "weightedmean"] | None = None
    """How tokens become one vector; None takes the model's own modules, or `mean` without any."""
    normalize: bool | None = None
    """Whether embeddings get length 1; None takes the model's own modules."""

    @model_validator(mode="after")
    def _digest_with_package(self) -> TeacherSpec:
        if self.package is not None and self.sha256 is None:
            raise ValueError("key 'package' needs 'sha256', so that the right weights are accepted")
        return self


class CacheSpec(Frozen):
    """What one teacher says about one corpus: one that is run, or one whose words are in files."""

    corpus: Name
    teacher: Name | None = None
    """None: what it said is in `files`."""
    targets: tuple[Target, ...] = ()
    """What to keep of what the teacher says."""
    files: tuple[Imported, ...] = ()
    """What some teacher has said already, in place of `teacher` and `targets`."""
    dtype: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """Of the teacher's matrix products; `auto`: bf16 where the hardware has it, else fp32."""
    tokens_per_batch: PositiveInt | None = None
    """Padded tokens in one forward pass, speed only; None: 2048 on a CPU, 32768 on a GPU."""

    @property
    def has_embeddings(self) -> bool:
        """Whether it holds sentence embeddings."""
        return any(one.kind == "embedding" for one in self.targets) or any(
            file.part == "embedding" for file in self.files
        )

    @property
    def asks_mlm(self) -> bool:
        """Whether the teacher is asked for masked tokens."""
        return any(isinstance(target, MaskedTokens) for target in self.targets)

    @model_validator(mode="after")
    def _teacher_or_files(self) -> CacheSpec:
        if not self.files:
            for key in ("teacher", "targets"):
                if not getattr(self, key):
                    raise ValueError(
                        f"key {key!r} is required; or 'files', where what a teacher said is there"
                    )
            return self
        for key in ("teacher", "targets", "dtype", "tokens_per_batch"):
            if key in self.model_fields_set:
                raise ValueError(f"key {key!r} is about a teacher that is run: 'files' need none")
        for part in (parts := [Part(file.part, file.layer) for file in self.files]):
            if parts.count(part) > 1:
                raise ValueError(f"two of 'files' have {part}: make another cache of one of them")
        return self


class Head(Frozen):
    """What a model answers beside an embedding: logits, as transformers' heads give them."""

    kind: Literal["sequence", "token", "span", "mlm"]
    """`sequence`: about each row; `token`: about each word of a row (tagging); `span`: where in a
    row the answer begins and ends (question answering); `mlm`: what a masked token was."""
    problem_type: Literal[
        "single_label_classification", "multi_label_classification", "regression"
    ] = "single_label_classification"
    """Of a `sequence` head."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Names in the order of the logits; None: those of the first cache's teacher where it has such
    a head, else the labels of the corpus, sorted."""
    crf: bool = False
    """Of a `token` head: whether also labels next to each other have scores, so that a row gets the
    best sequence of labels (a linear-chain CRF)."""

    @model_validator(mode="after")
    def _crf_of_tokens(self) -> Head:
        if self.crf and self.kind != "token":
            raise ValueError("key 'crf' is about tags of words: use kind: token")
        return self

    @model_validator(mode="after")
    def _classes_fit(self) -> Head:
        if self.kind != "sequence" and self.problem_type != "single_label_classification":
            raise ValueError("key 'problem_type' is about rows: use kind: sequence")
        if self.classes is None:
            return self
        if self.kind not in {"sequence", "token"} or self.problem_type == "regression":
            raise ValueError("this head tells no classes apart: take out 'classes'")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes {list(self.classes)}: each has to be another one")
        return self


class StudentSpec(Frozen):
    """A model that learns from caches, from labels, or from both."""

    caches: tuple[Name, ...] = ()
    """What to learn from; the first one's teacher gives layers and pooling. Empty: labels alone."""
    corpus: Name | None = None
    """What it reads; None: the corpus of the caches. Another one than theirs is for a student with
    a tokenizer of its own: rows are joined by their text, words by their place."""
    model: StudentModel
    head: Head | None = None
    """None: sentence embeddings."""
    embedding_size: PositiveInt | None = None
    """Width of the sentence embedding; None: the teacher's. Another width than the student's hidden
    one adds a dense layer, saved as a module of the model."""
    objectives: Annotated[tuple[AnyObjective, ...], Field(min_length=1)]
    train: TrainSpec = TrainSpec()
    evaluate: tuple[Task, ...] | None = None
    """None: `fidelity`, where it has no head and its first cache has embeddings."""

    def corpus_of(self, caches: Mapping[str, CacheSpec]) -> str:
        """The corpus that it is trained on; raises UsageError where its caches have several."""
        names = dict.fromkeys(caches[name].corpus for name in self.caches)
        if self.corpus is None and len(names) > 1:
            raise UsageError(
                f"caches {', '.join(self.caches)} are of different corpora ({', '.join(names)}):"
                " name the 'corpus' that the student reads; rows are joined by their text"
            )
        return self.corpus or next(iter(names))

    @model_validator(mode="after")
    def _crf_learns_labels(self) -> StudentSpec:
        through = any(isinstance(o, MatchLogits) and o.through_crf for o in self.objectives)
        crf = self.head is not None and self.head.crf
        if through and not crf:
            raise ValueError("objective 'logits': through_crf needs a student with head: crf")
        if crf and not through and all(one.kind != "labels" for one in self.objectives):
            raise ValueError(
                "head: crf learns from an objective of kind 'labels', or 'logits' with through_crf:"
                " add one (pseudo_labels: true where there are no labels)"
            )
        return self

    @model_validator(mode="after")
    def _logits_or_embedding(self) -> StudentSpec:
        if self.head is not None and self.embedding_size is not None:
            raise ValueError(
                "key 'embedding_size' is about sentence embeddings: take it out, or 'head'"
            )
        return self

    @model_validator(mode="after")
    def _objectives_name_caches(self) -> StudentSpec:
        if not self.caches and self.corpus is None:
            raise ValueError("give 'caches' to learn from, or a 'corpus' for labels alone")
        if not self.caches and isinstance(self.model, FromTeacher):
            raise ValueError(
                "model of kind 'teacher_layers' needs 'caches', which name the teacher"
            )
        for objective in self.objectives:
            if not self.caches and objective.from_teacher:
                raise ValueError(
                    f"objective {objective.kind!r} learns from a teacher: give 'caches'"
                )
            for name in objective.averaged:
                if name not in self.caches:
                    raise ValueError(
                        f"objective {objective.kind!r} averages cache {name!r}, which is not among"
                        f" the student's caches: {', '.join(self.caches)}"
                    )
            alone = objective.from_teacher and not objective.averaged
            if objective.cache is None and len(self.caches) > 1 and alone:
                raise ValueError(
                    f"objective {objective.kind!r} must say which cache: {', '.join(self.caches)}"
                )
            if objective.cache is not None and objective.cache not in self.caches:
                raise ValueError(
                    f"objective {objective.kind!r} names cache {objective.cache!r}, which is not"
                    f" among the student's caches: {', '.join(self.caches)}"
                )
        return self


class Pipeline(Frozen):
    """Everything there is to make, by name."""

    corpora: dict[Name, CorpusSpec]
    teachers: dict[Name, TeacherSpec] = {}
    caches: dict[Name, CacheSpec] = {}
    students: dict[Name, StudentSpec] = {}
    bodies: dict[Name, BodySpec] = {}
    augmentations: dict[Name, AugmentationSpec] = {}

    def student(self, name: str) -> StudentSpec:
        """The section of a student; of one that shares its body, with the body's settings."""
        spec = self.students[name]
        if not isinstance(spec.model, Shared):
            return spec
        body = self.bodies[spec.model.body]
        return spec.model_copy(update={"model": body.model, "train": body.train})

    def tasks_of(self, name: str) -> tuple[Task, ...]:
        """How to measure a student."""
        spec = self.students[name]
        if spec.evaluate is not None:
            return spec.evaluate
        embeds = spec.head is None and spec.caches and self.caches[spec.caches[0]].has_embeddings
        return (Fidelity(),) if embeds else ()

    def trained_as(self, name: str) -> str:
        """What is trained as one with a student: the name of its body, else its own."""
        model = self.students[name].model
        return model.body if isinstance(model, Shared) else name

    def trained_in(self, whole: str) -> tuple[str, ...]:
        """The students that are trained as one: those of a body, or the one of this name."""
        return tuple(name for name in self.students if self.trained_as(name) == whole)

    def choose_students(self, names: list[str] | None) -> list[str]:
        """The asked students, all where none is asked; a body's name is for all that share it."""
        asked = choose({**self.students, **self.bodies}, names, "student")
        each = (self.trained_in(name) if name in self.bodies else (name,) for name in asked)
        return [*dict.fromkeys(name for some in each for name in some)]

    @model_validator(mode="after")
    def _names_exist(self) -> Pipeline:
        for name, cache in self.caches.items():
            _known(("caches", name, "corpus"), cache.corpus, self.corpora)
            if cache.teacher is not None:
                _known(("caches", name, "teacher"), cache.teacher, self.teachers)
        for name, student in self.students.items():
            if student.corpus is not None:
                _known(("students", name, "corpus"), student.corpus, self.corpora)
            for cache_name in student.caches:
                _known(("students", name, "caches"), cache_name, self.caches)
            self._imported_suffice(name, student)
            self._pairs_are_measured(name, student)
            self._fidelity_has_embeddings(name, student)
        return self

    @model_validator(mode="after")
    def _bodies_are_shared(self) -> Pipeline:
        check_bodies(self)
        return self

    def _imported_suffice(self, name: str, student: StudentSpec) -> None:
        """Refuse a student that needs more of a teacher than its files have."""
        first = next(iter(student.caches), None)
        if first and self.caches[first].files and isinstance(student.model, FromTeacher):
            raise MisplacedError(
                ("students", name, "model"),
                f"students.{name}.model: cache {first!r} is of files, there is no model to take"
                " layers from: use kind: shape or kind: checkpoint",
            )
        for objective in student.objectives:
            asked = objective.averaged or (objective.cache or first,)
            for cache in asked if objective.from_teacher else ():
                there = [file.what for file in self.caches[cache].files] if cache else []
                if there and not objective.learns_from & {part.name for part in there}:
                    raise MisplacedError(
                        ("students", name, "objectives"),
                        f"students.{name}.objectives: {objective.kind!r} has nothing to learn from"
                        f" in cache {cache!r}, whose files have {listed(frozenset(there))}",
                    )

    def _fidelity_has_embeddings(self, name: str, student: StudentSpec) -> None:
        """Refuse, before anything is trained, to compare with embeddings that no cache has."""
        asked = any(isinstance(task, Fidelity) for task in student.evaluate or ())
        if asked and not any(self.caches[cache].has_embeddings for cache in student.caches):
            raise MisplacedError(
                ("students", name, "evaluate"),
                f"students.{name}.evaluate: 'fidelity' compares with the teacher's embeddings, and"
                " no cache of the student has them: add a target of kind: embedding to one, or"
                " take it out",
            )

    def _pairs_are_measured(self, name: str, student: StudentSpec) -> None:
        """Refuse to measure a student of pairs on the first of their texts alone."""
        corpus = self.corpora[student.corpus or self.caches[student.caches[0]].corpus]
        of_pairs = all(getattr(one, "text_pair_column", None) for one in corpus.sources)
        for task in student.evaluate or ():
            if of_pairs and isinstance(task, Labelled) and task.text_pair_column is None:
                raise MisplacedError(
                    ("students", name, "evaluate"),
                    f"students.{name}.evaluate: {task.kind!r} reads single texts, the student is"
                    " made for pairs: set 'text_pair_column' to the column of the second text",
                )


def _known(keys: tuple[str, ...], name: str, section: dict[str, Any]) -> None:
    if name not in section:
        allowed = nearest(name, [*section])
        raise MisplacedError(
            keys, f"{'.'.join(keys)} names {name!r}, which does not exist: {allowed}"
        )


def load_pipeline(path: Path) -> Pipeline:
    """Read a pipeline file; raises UsageError naming file, line, key and remedy."""
    return decode(Pipeline, read_yaml(path), path)


def choose(section: dict[str, Any], names: list[str] | None, what: str) -> list[str]:
    """The asked names of a section, all of them where none is asked; raises UsageError."""
    for name in names or []:
        if name not in section:
            raise UsageError(f"no {what} is called {name!r}: {nearest(name, [*section])}")
    return names or [*section]
