"""What a model says about new text, one record for each row.

Legend: R rows, C classes, D width.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from io import BytesIO
from itertools import count, islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from kdpipe import modules
from kdpipe.device import pick_device
from kdpipe.errors import ArtifactError, UsageError
from kdpipe.hub import read_json
from kdpipe.load import load_encoder
from kdpipe.parts import EMBEDDING, LOGITS, Problem
from kdpipe.sources import Conll, Files
from kdpipe.sources.columns import ColumnError, Columns
from kdpipe.sources.formats import READERS, read_txt, suffix_of
from kdpipe.sources.row import Row
from kdpipe.sources.squad import Question
from kdpipe.tasks.masked_language import guesses_of
from kdpipe.tasks.question_answering import answers_of
from kdpipe.tasks.subject import Subject, Vectors, read, say
from kdpipe.tasks.tagging import tags_of
from kdpipe.tokenizer import load_tokenizer

T = TypeVar("T")
_AT_A_TIME = 1024
"""Rows that are in memory together."""


def guesses_tokens(folder: Path) -> bool:
    """Whether a model folder says that it is a masked language model; other models say so too."""
    config = read_json(modules.transformer_folder(folder) / "config.json")
    return any(str(name).endswith("ForMaskedLM") for name in config.get("architectures") or ())


def open_subject(folder: Path, device: str, *, mlm: bool = False) -> Subject:
    """A model folder, ready to be asked; with `mlm` for masked tokens.

    Raises:
        ArtifactError: not a model, or damaged.
    """
    encoder = load_encoder(folder, modules.head_of(folder), mlm=mlm).to(pick_device(device))
    return Subject(
        name=folder.name,
        encoder=encoder,
        tokenizer=load_tokenizer(modules.transformer_folder(folder)),
        max_seq_length=modules.own_limit(folder),
        prompt=modules.default_prompt(folder),
        dtype="fp32",
        folder=folder,
    )


def rows_of(
    file: Path,
    problem: Problem | None,
    text_column: str,
    text_pair_column: str | None,
    word_column: int | None = None,
) -> Iterator[Row]:
    """Every row of a file, blank ones too, so that answers stand in their order.

    A tagger reads words: those of a list, of columns (CoNLL), or of a text cut at blanks. Where a
    `word_column` is given, from 0, the file has columns whatever its name.

    Raises:
        UsageError: a file of no known format, pairs for a tagger, or words for another model.
        ArtifactError: the file is missing, empty or damaged, or has no such column.
    """
    if not file.exists():
        raise ArtifactError(f"{file} does not exist: check the path")
    tagger = problem == "token"
    if tagger and text_pair_column is not None:
        raise UsageError("a tagger reads words of one text: take out --text-pair-column")
    if word_column is not None and not tagger:
        raise UsageError("the model gives no tags of words: take out --word-column")
    if word_column is not None or (tagger and suffix_of(file) in {*Conll.known} - {*READERS}):
        column = (1 if ".conllu" in suffix_of(file) else 0) if word_column is None else word_column
        source = Conll(kind="conll", files=(str(file),), word_column=column, label_column=None)
        return source.rows(Path())
    files = Files(
        kind="files",
        files=(str(file),),
        text_column=text_column,
        text_pair_column=text_pair_column,
        split_words=tagger,
    )
    return _with_option(files.read(Path(), partial(_every_row, files)), text_column)


def _with_option(rows: Iterator[Row], text_column: str) -> Iterator[Row]:
    """The same rows; a column that is not there is one of the command line's."""
    try:
        yield from rows
    except ColumnError as error:
        option = "--text-column" if error.column == text_column else "--text-pair-column"
        raise ArtifactError(f"{error}: choose one with {option}") from None


def _every_row(files: Files, path: Path) -> Iterator[Row]:
    reader = READERS[suffix_of(path)]
    columns = Columns(split_words=files.split_words) if reader is read_txt else files
    for where, record in reader(path, columns):
        found = [*columns.convert(record, where)]
        names = [columns.text_columns[0], columns.text_pair_column]
        texts = [None if name is None else str(record[name] or "") for name in names]
        row = found[0] if found else Row(texts[0] or "", texts[1])
        yield row._replace(words=(row.words or ()) if files.split_words else None)


def embeddings(subject: Subject, rows: Iterable[Row]) -> Vectors:
    """[R, D]: the sentence embedding of each row."""
    said = [_say(subject, some) for some in _batched(rows)]
    return np.concatenate(said) if said else np.empty((0, subject.encoder.dims.embedding), "f4")


def records(subject: Subject, rows: Iterable[Row]) -> Iterator[bytes]:
    """One line of JSON for each row, in their order.

    One class: `label` and its `score`, the probability. Any number of classes: `labels` and their
    `scores`. A number: `score`. Words: `words` and `tags`, one each. Masked tokens: `tokens` and
    their `scores`, of each mask token the five likeliest.

    Raises:
        UsageError: a model that answers questions.
    """
    for some in _batched(rows):
        for record in _records(subject, some):
            yield _line(record)


def columns(subject: Subject, rows: Iterable[Row]) -> Iterator[bytes]:
    """The words of each row and their tags, a tab between them, and a blank line behind each row.

    Raises:
        UsageError: a word that cannot stand in a column.
    """
    numbers = count(1)
    for some in _batched(rows):
        for row, tags in zip(some, tags_of(subject, some), strict=True):
            words, number = row.words or (), next(numbers)
            for word in words:
                if not word.strip() or any(end in word for end in "\t\r\n"):
                    raise UsageError(
                        f"row {number}: {word[:40]!r} cannot stand in a column: end the name of the"
                        " output in .jsonl"
                    )
            lines = (f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True))
            yield "".join([*lines, "\n"]).encode()


def answers(subject: Subject, questions: Iterable[Question], doc_stride: int) -> Iterator[bytes]:
    """One line of JSON for each question, in their order: `id`, `answer` and its `score`.

    The answer is empty where the model reads nothing of the context. The score is the probability
    of the answer's first token times that of its last one, each among all tokens of the window that
    the answer is in.

    Raises:
        UsageError: `doc_stride` leaves no room in a window.
    """
    for some in _batched(questions):
        found = answers_of(subject, some, doc_stride=doc_stride)
        for question, (text, probability) in zip(some, found, strict=True):
            score = round(probability, 6)
            yield _line({"id": question.id, "answer": text, "score": score})


def _records(subject: Subject, rows: list[Row]) -> Iterator[dict[str, object]]:
    problem, classes = subject.encoder.dims.problem, subject.encoder.dims.classes
    if problem == "token":
        for row, tags in zip(rows, tags_of(subject, rows), strict=True):
            yield {"words": list(row.words or ()), "tags": tags}
        return
    if problem == "mlm":
        for found in guesses_of(subject, rows):
            scores = [[round(score, 6) for score in some] for _, some in found]
            yield {"tokens": [tokens for tokens, _ in found], "scores": scores}
        return
    if problem == "span" or problem is None:
        raise UsageError(f"{subject.name} gives no labels of rows: use another model")
    logits = say(subject, read(subject, rows)[0], LOGITS).astype(np.float64)
    for numbers in logits:
        if problem == "regression":
            yield {"score": round(float(numbers[0]), 6)}
        elif problem == "multi_label_classification":
            likely = 1.0 / (1.0 + np.exp(-numbers))
            there = np.flatnonzero(likely > 0.5)
            yield {
                "labels": [classes[place] for place in there],
                "scores": [round(float(likely[place]), 6) for place in there],
            }
        else:
            likely = np.exp(numbers - numbers.max())
            best = int(likely.argmax())
            score = round(float(likely[best] / likely.sum()), 6)
            yield {"label": classes[best], "score": score}


def _say(subject: Subject, rows: list[Row]) -> Vectors:
    return say(subject, read(subject, rows)[0], EMBEDDING)


def _line(record: dict[str, object]) -> bytes:
    # Half of a surrogate pair, which is no text, stays what it can be in JSON: an escape.
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def _batched(rows: Iterable[T]) -> Iterator[list[T]]:
    left = iter(rows)
    while some := list(islice(left, _AT_A_TIME)):
        yield some


def npy(values: Vectors) -> bytes:
    """The bytes of a `.npy` file."""
    file = BytesIO()
    np.lib.format.write_array(file, values, allow_pickle=False)
    return file.getvalue()
