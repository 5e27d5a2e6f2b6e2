"""How a student comes into being: the kinds of student."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdpipe.students.checkpoint import FromCheckpoint
from kdpipe.students.layers import FromTeacher
from kdpipe.students.recurrent import RecurrentStudent
from kdpipe.students.shape import FromShape

StudentModel = Annotated[
    FromTeacher | FromShape | FromCheckpoint | RecurrentStudent, Field(discriminator="kind")
]

__all__ = ["FromCheckpoint", "FromShape", "FromTeacher", "RecurrentStudent", "StudentModel"]
