"""What a student has to match: the kinds of objective."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdpipe.objectives.attention import MatchAttention
from kdpipe.objectives.base import Objective
from kdpipe.objectives.dropout_penalty import DropoutPenalty
from kdpipe.objectives.embedding import MatchEmbedding
from kdpipe.objectives.emd import MatchManyLayers
from kdpipe.objectives.hidden import MatchHidden
from kdpipe.objectives.labels import MatchLabels
from kdpipe.objectives.logits import MatchLogits
from kdpipe.objectives.mlm import MatchMasked
from kdpipe.objectives.modules import MatchModules
from kdpipe.objectives.relation import MatchRelation
from kdpipe.objectives.structure import MatchStructure

_OfLayers = MatchHidden | MatchStructure | MatchRelation | MatchAttention | MatchManyLayers
_OfParts = _OfLayers | MatchModules
AnyObjective = Annotated[
    MatchEmbedding | MatchLogits | MatchLabels | MatchMasked | DropoutPenalty | _OfParts,
    Field(discriminator="kind"),
]

__all__ = [
    "AnyObjective",
    "DropoutPenalty",
    "MatchAttention",
    "MatchEmbedding",
    "MatchHidden",
    "MatchLabels",
    "MatchLogits",
    "MatchManyLayers",
    "MatchMasked",
    "MatchModules",
    "MatchRelation",
    "MatchStructure",
    "Objective",
]
