"""Where text comes from: the kinds of source, and the row they all give."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdpipe.sources.conll import Conll
from kdpipe.sources.files import Files
from kdpipe.sources.folders import Folders
from kdpipe.sources.hub import HubDataset
from kdpipe.sources.python_docs import PythonDocs
from kdpipe.sources.row import Row, Span
from kdpipe.sources.sentence_pairs import SentencePairs
from kdpipe.sources.squad import Squad

Source = Annotated[
    Files | Folders | SentencePairs | Conll | Squad | PythonDocs | HubDataset,
    Field(discriminator="kind"),
]

__all__ = [
    "Conll",
    "Files",
    "Folders",
    "HubDataset",
    "PythonDocs",
    "Row",
    "SentencePairs",
    "Source",
    "Span",
    "Squad",
]
