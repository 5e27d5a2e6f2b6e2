"""What caches and students are made from, by which a finished one is found to be up to date."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdpipe import artifact, cache, io, versions
from kdpipe.cache import Cache
from kdpipe.corpus import Corpus
from kdpipe.importing import identity_of
from kdpipe.pipeline import CacheSpec, StudentSpec
from kdpipe.project import Project, Teacher, same_tokenizer
from kdpipe.questions import cache_identity

if TYPE_CHECKING:
    from kdpipe.device import Dtype

KIND = "kdpipe.student"


class CacheWanted(NamedTuple):
    """A cache as its section asks for it."""

    spec: CacheSpec
    folder: Path
    corpus: Corpus
    teacher: Teacher | None
    """None: files say what it would."""
    said_by: str
    """The identity of the teacher, or of what stands for it."""

    def inputs(self, dtype: Dtype) -> dict[str, str]:
        """What it is made from in `dtype`."""
        return {
            "meaning": str(versions.CACHE_TEACHER),
            "corpus": self.corpus.digest,
            "teacher": self.said_by,
            "dtype": dtype,
        }

    def finished_in(self) -> Dtype | None:
        """The dtype of the finished cache, where that is what is asked for.

        What was `auto` on the machine that made it may be so on any other.
        """
        dtypes = _DTYPES[self.spec.dtype] if self.teacher else _DTYPES["fp32"]
        identity, inputs = cache_identity(self.spec), [self.inputs(dtype) for dtype in dtypes]
        found = artifact.current(self.folder, cache.KIND, identity, *inputs)
        return None if found is None else dtypes[inputs.index(found.inputs)]


_DTYPES: dict[str, tuple[Dtype, ...]] = {
    "auto": ("bf16", "fp32"),
    "fp32": ("fp32",),
    "bf16": ("bf16",),
    "fp16": ("fp16",),
    "int8": ("int8",),
}


def cache_wanted(project: Project, name: str) -> CacheWanted:
    """What is known of a cache before anything is loaded.

    Raises:
        ArtifactError: no finished corpus, one that is tokenised for another model, a teacher that
            cannot be had, or a file that is not there.
    """
    spec = project.pipeline.caches[name]
    corpus, who = project.corpus(spec.corpus), project.teacher_in(name)
    if who is not None:
        same_tokenizer(who, corpus, spec.corpus)
    said_by = identity_of(spec, project.root) if who is None else who.identity
    return CacheWanted(spec, project.cache_folder(name), corpus, who, said_by)


def student_identity(spec: StudentSpec) -> dict[str, Any]:
    """The part of a student's section that decides what it becomes."""
    identity = {key: value for key, value in spec.identity().items() if key != "evaluate"}
    if spec.train.save_total_limit == 1:
        # Then they only say how much of a run is lost when it is stopped.
        train = {key: value for key, value in identity["train"].items() if key != "save_steps"}
        identity |= {"train": train}
    return identity


class Asked(NamedTuple):
    """One student: what decides what it becomes."""

    identity: dict[str, Any]
    inputs: dict[str, str]
    corpus: Corpus
    caches: dict[str, Cache]


def asked(project: Project, whole: str) -> dict[str, Asked]:
    """The students that are trained as one, by name; raises as `Project.inputs` does."""
    pipeline, found = project.pipeline, dict[str, Asked]()
    for name in pipeline.trained_in(whole):
        spec, (corpus, caches) = pipeline.student(name), project.inputs(name)
        inputs = {
            "meaning": str(versions.TRAIN),
            "corpus": corpus.digest,
            **{f"cache.{key}": cache.digest for key, cache in caches.items()},
            **spec.model.inputs(project.root),
        }
        found[name] = Asked(student_identity(spec), inputs, corpus, caches)
    if whole in pipeline.bodies:
        tau = pipeline.bodies[whole].tau
        body = io.identity([tau, [[name, *some[:2]] for name, some in found.items()]])
        for some in found.values():
            some.inputs["body"] = body
    return found


def open_student(project: Project, name: str) -> Asked:
    """What a finished student was made of.

    Raises:
        ArtifactError: not finished, damaged, or made by another section or from other inputs.
    """
    folder, remedy = project.student_folder(name), f"run 'kdpipe train {project.file} {name}'"
    manifest = artifact.check_all(folder, KIND, remedy)
    mine = asked(project, project.pipeline.trained_as(name))[name]
    artifact.refuse_stale(folder, manifest, mine.identity, mine.inputs, remedy)
    return mine
