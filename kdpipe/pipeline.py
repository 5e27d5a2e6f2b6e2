"""The pipeline file: what corpora, teachers, caches and students there are to make.

Everything here is identity (it decides what is made) unless its line says "speed only".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from kdpipe.config import Frozen, MisplacedError, Name, decode, nearest, read_yaml
from kdpipe.errors import UsageError
from kdpipe.objectives import AnyObjective
from kdpipe.sources import Source
from kdpipe.students import StudentModel
from kdpipe.targets import Target
from kdpipe.tasks import Fidelity, Task


class CorpusSpec(Frozen):
    """Text, and how it becomes tokens."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    tokenizer: str
    """Name of a teacher whose tokenizer reads the text, or a folder or hub id of a model."""
    max_seq_length: PositiveInt | None = None
    """Longer rows are cut, special tokens kept; None takes the teacher's own limit."""
    prompt: str | None = None
    """Put before every text; None takes the teacher's default prompt, if it has one."""
    validation: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.02
    """Share of rows held out of training, chosen by the text itself: a row never changes sides."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the held-out split."""
    deduplicate: bool = True
    """Keep only the first of equal texts."""
    max_rows: PositiveInt | None = None
    """Stop after so many rows."""


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
    """What one teacher says about one corpus."""

    corpus: Name
    teacher: Name
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the teacher's matrix products; `auto`: bf16 where the hardware has it, else fp32."""
    tokens_per_batch: PositiveInt | None = None
    """Padded tokens in one forward pass, speed only; None: 2048 on a CPU, 32768 on a GPU."""


class TrainSpec(Frozen):
    """How a student is trained; names and meanings are those of transformers' TrainingArguments."""

    num_train_epochs: PositiveFloat = 1.0
    max_steps: int = -1
    """Total steps; overrides `num_train_epochs` when positive."""
    tokens_per_batch: PositiveInt = 4096
    """Padded tokens in one forward pass of the student."""
    gradient_accumulation_steps: PositiveInt = 1
    learning_rate: PositiveFloat = 2e-4
    weight_decay: NonNegativeFloat = 0.01
    adam_beta1: NonNegativeFloat = 0.9
    adam_beta2: NonNegativeFloat = 0.999
    adam_epsilon: PositiveFloat = 1e-8
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: NonNegativeFloat = 0.05
    """Steps; below 1 a share of all steps."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients are clipped to this norm; 0 does not clip."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    bf16: bool | Literal["auto"] = "auto"
    """Autocast to bf16; `auto`: where the hardware has it."""
    torch_compile: bool = False
    eval_steps: PositiveInt | None = None
    """Measure the held-out rows every so many steps; None: once an epoch."""
    save_steps: PositiveInt = 500
    """Checkpoint every so many steps, speed only."""
    logging_steps: PositiveInt = 10
    """One line in `steps.tsv` every so many steps."""
    metric_for_best_model: Literal["eval_loss", "eval_cosine"] = "eval_loss"
    """Measured on held-out rows; `eval_cosine` is the mean cosine to the teacher's embedding."""
    load_best_model_at_end: bool = True
    """Keep the best model by that metric (the last one is kept too); false keeps the last alone."""
    early_stopping_patience: PositiveInt | None = None
    """Stop after so many measurements without a better one; None never does."""


class StudentSpec(Frozen):
    """A model that learns from caches."""

    caches: Annotated[tuple[Name, ...], Field(min_length=1)]
    """What to learn from; the first one's teacher gives layers and head."""
    model: StudentModel
    embedding_size: PositiveInt | None = None
    """Width of the sentence embedding; None: the teacher's. Another width than the student's hidden
    one adds a dense layer, saved as a module of the model."""
    objectives: Annotated[tuple[AnyObjective, ...], Field(min_length=1)]
    train: TrainSpec = TrainSpec()
    evaluate: tuple[Task, ...] = (Fidelity(),)

    @model_validator(mode="after")
    def _objectives_name_caches(self) -> StudentSpec:
        for objective in self.objectives:
            if objective.cache is None and len(self.caches) > 1:
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
    teachers: dict[Name, TeacherSpec]
    caches: dict[Name, CacheSpec]
    students: dict[Name, StudentSpec] = {}

    @model_validator(mode="after")
    def _names_exist(self) -> Pipeline:
        for name, cache in self.caches.items():
            _known(("caches", name, "corpus"), cache.corpus, self.corpora)
            _known(("caches", name, "teacher"), cache.teacher, self.teachers)
        for name, student in self.students.items():
            for cache_name in student.caches:
                _known(("students", name, "caches"), cache_name, self.caches)
        return self


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
