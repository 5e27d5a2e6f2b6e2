"""Bodies that several students share: their section, and what does not fit in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat

from kdpipe.config import Frozen, MisplacedError, nearest
from kdpipe.students import BodyModel, FromTeacher, Shared
from kdpipe.train_spec import TrainSpec

if TYPE_CHECKING:
    from kdpipe.pipeline import Pipeline


class BodySpec(Frozen):
    """A transformer that several students share: they are trained in turn, one in each step."""

    model: BodyModel
    """What it is before training; its teacher is the first that one of its students has."""
    tau: NonNegativeFloat = 1.0
    """A step is one of a student with a probability that goes with the rows that it trains on, to
    the power of tau: 1 is by size, 0 is the same for all."""
    train: TrainSpec = TrainSpec()


def check_bodies(pipeline: Pipeline) -> None:
    """Refuse bodies that are not there, or that nobody has; raises MisplacedError."""
    for name, student in pipeline.students.items():
        if not isinstance(student.model, Shared):
            continue
        place, body = ("students", name, "model"), student.model.body
        if body not in pipeline.bodies:
            raise MisplacedError(
                place,
                f"{'.'.join(place)} names body {body!r}, which does not exist:"
                f" {nearest(body, [*pipeline.bodies])}",
            )
        if "train" in student.model_fields_set:
            raise MisplacedError(
                ("students", name, "train"),
                f"students.{name}.train: a body is trained as a whole: say it in"
                f" bodies.{body}.train",
            )
    for name in pipeline.bodies:
        problem = _problem(pipeline, name)
        if problem is not None:
            raise MisplacedError(("bodies", name), f"bodies.{name}: {problem}")


def _problem(pipeline: Pipeline, body: str) -> str | None:
    students = pipeline.trained_in(body)
    first = (cache for name in students for cache in pipeline.students[name].caches[:1])
    if body in pipeline.students:
        return "a student is called so too: give one of them another name"
    if not students:
        return f"no student has it: give one model: {{kind: shared, body: {body}}}"
    from_teacher = isinstance(pipeline.bodies[body].model, FromTeacher)
    if from_teacher and all(pipeline.caches[cache].teacher is None for cache in first):
        return (
            "model of kind 'teacher_layers' needs a teacher: let 'caches' of a student that has it"
            " begin with one of a teacher that is run"
        )
    return None
