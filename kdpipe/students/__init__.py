"""How a student comes into being: the kinds of student."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdpipe.students.attention import AttentionStudent
from kdpipe.students.checkpoint import FromCheckpoint
from kdpipe.students.layers import FromTeacher
from kdpipe.students.recurrent import RecurrentStudent
from kdpipe.students.shape import FromShape
from kdpipe.students.shared import Shared
from kdpipe.students.taggers import CNNLSTMStudent, IDCNNStudent

_Transformer = FromTeacher | FromShape | FromCheckpoint
_Model = _Transformer | RecurrentStudent | AttentionStudent | CNNLSTMStudent | IDCNNStudent
BodyModel = Annotated[_Model, Field(discriminator="kind")]
StudentModel = Annotated[_Model | Shared, Field(discriminator="kind")]

__all__ = [
    "AttentionStudent",
    "BodyModel",
    "CNNLSTMStudent",
    "FromCheckpoint",
    "FromShape",
    "FromTeacher",
    "IDCNNStudent",
    "RecurrentStudent",
    "Shared",
    "StudentModel",
]
