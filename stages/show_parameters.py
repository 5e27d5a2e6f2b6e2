"""Stage `parameters`: where the parameters of a model are."""

from __future__ import annotations

from typing import Annotated

import typer

Folder = Annotated[
    str, typer.Argument(metavar="FOLDER", help="A model folder, of a student or a teacher.")
]
Depth = Annotated[
    int, typer.Option("--depth", min=0, help="Show modules within modules, so many deep.")
]


def parameters(folder: Folder, depth: Depth = 2) -> None:
    """Show how many parameters each module of a model has.

    Example: kdpipe parameters artifacts/students/small --depth 3
    """
    from rich.console import Console

    from kdpipe.hub import find_model
    from kdpipe.load import load_encoder
    from kdpipe.modules import head_of
    from kdpipe.parameters import as_table, parameter_table

    found = find_model(folder)
    encoder = load_encoder(found, head_of(found))
    # Without dense modules there is nothing beside the transformer, whose names are then enough.
    model = encoder if len(encoder.dense) else encoder.model
    Console().print(as_table(parameter_table(model, depth)))
