"""Stage `predict`: ask a model about new text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdpipe.options import Device

Folder = Annotated[str, typer.Argument(metavar="MODEL", help="A model folder.")]
Text = Annotated[
    Path, typer.Argument(metavar="FILE", help="Texts: .txt, .tsv, .jsonl, ...; or questions.")
]
Output = Annotated[
    Path,
    typer.Argument(
        metavar="OUTPUT", help=".jsonl for labels, also .conll for tags; .npy for embeddings."
    ),
]
TextColumn = Annotated[
    str, typer.Option("--text-column", help="The column of the text, where there are columns.")
]
PairColumn = Annotated[
    str | None, typer.Option("--text-pair-column", help="The column of the second text of a pair.")
]
WordColumn = Annotated[
    int | None,
    typer.Option(
        "--word-column", min=0, help="For a file of a word a line: which column has it, from 0."
    ),
]
DocStride = Annotated[
    int,
    typer.Option("--doc-stride", min=0, help="Tokens that windows of a long context share."),
]


def predict(
    model: Folder,
    file: Text,
    output: Output,
    text_column: TextColumn = "text",
    text_pair_column: PairColumn = None,
    word_column: WordColumn = None,
    doc_stride: DocStride = 128,
    device: Device = "auto",
) -> None:
    """Write what a model says about each row of a file, blank ones too, in the order of the rows.

    A classifier gives a label and its probability, a tagger a tag for each word (texts are cut into
    words at blanks; .conll, .conllu, .iob, .iob2 and .bio have a word in each line, and so has any
    file with a --word-column; an output whose name ends in .conll has columns of words and tags), a
    regressor a number; a model without such a head gives embeddings. A masked language model, if
    the name of the output ends in .jsonl, gives the likeliest tokens for each mask token of a text.
    A model that answers questions reads .json of SQuAD, or .jsonl, .parquet or .arrow with columns
    id, question and context (blank ones are left out), and gives answers with the probability of
    both their ends.

    Example: kdpipe predict artifacts/students/small my.txt vectors.npy
    """
    from kdpipe import artifact, io, predict
    from kdpipe.errors import UsageError
    from kdpipe.hub import find_model
    from kdpipe.made_from import KIND
    from kdpipe.progress import counted, say
    from kdpipe.sources import Squad

    folder = find_model(model)
    if (folder / artifact.MANIFEST).is_file():
        again = f"train it again; or delete its {artifact.MANIFEST}, if it was changed on purpose"
        artifact.check_all(folder, KIND, again)
    guesses = predict.guesses_tokens(folder)
    subject = predict.open_subject(folder, device, mlm=guesses and output.suffix == ".jsonl")
    problem = subject.encoder.dims.problem
    suffixes = [".npy"] if subject.encoder.answers is None else [".jsonl"]
    suffixes += [".jsonl"] if problem is None and guesses else []
    suffixes += [".conll"] if problem == "token" else []
    if output.suffix not in suffixes:
        gives = " and ".join(suffixes)
        raise UsageError(f"{output}: {model} gives {gives} files: end its name in {suffixes[0]}")
    rows = predict.rows_of(file, problem, text_column, text_pair_column, word_column)
    if problem is None:
        said = predict.embeddings(subject, rows)
        data, count = predict.npy(said), len(said)
    else:
        if problem == "span":
            questions = Squad(kind="squad", files=(str(file),)).questions(Path())
            found = predict.answers(subject, questions, doc_stride)
        elif output.suffix == ".conll":
            found = predict.columns(subject, rows)
        else:
            found = predict.records(subject, rows)
        lines = list(found)
        data, count = b"".join(lines), len(lines)
    io.make_folder(output.parent)
    io.write_file(output, data)
    say(f"{output}: {counted(count, 'row')}")
