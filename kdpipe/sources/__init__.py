"""Where text comes from: the kinds of source, and the row they all give."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdpipe.sources.files import Files
from kdpipe.sources.hub import HubDataset
from kdpipe.sources.python_docs import PythonDocs
from kdpipe.sources.row import Row

Source = Annotated[Files | PythonDocs | HubDataset, Field(discriminator="kind")]

__all__ = ["Files", "HubDataset", "PythonDocs", "Row", "Source"]
