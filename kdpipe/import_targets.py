"""A cache of what some teacher has said already: the user's own files, block by block into shards.

From there on nothing tells it apart from the cache of a teacher that was run.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from kdpipe import storage
from kdpipe.activations import Dims
from kdpipe.cache import CacheFacts, told_of
from kdpipe.corpus import Corpus
from kdpipe.errors import ArtifactError, NonFiniteError
from kdpipe.importing import Importing, identity_of
from kdpipe.known_rows import about_rows
from kdpipe.mapped import Mapped
from kdpipe.parts import EMBEDDING, Part
from kdpipe.pipeline import CacheSpec
from kdpipe.progress import Progress, counted
from kdpipe.questions import Todo
from kdpipe.store import Store
from kdpipe.targets import Imported, Question
from kdpipe.targets.imported import STATES
from kdpipe.teacher import rows_of
from kdpipe.token_vectors import at_first_tokens
from kdpipe.vector_files import open_vectors, width_of

_SHOWN = 5


def take_over(asking: Importing, todo: list[Todo], store: Store, root: Path) -> None:
    """Put what is missing into the store.

    Raises:
        ArtifactError: a file is damaged, changed while it is read, or has not one vector for each
            row of the corpus.
        NonFiniteError: a vector is NaN or Inf as it is kept; rows are named.
    """
    total, read = sum(item.block.rows * len(item.questions) for item in todo), Mapped()
    paths = [file.path(root) for file in asking.spec.files]
    read.note(lambda: _refuse_other(asking, root), *paths)
    with Progress("cache-teacher", total=total, unit="rows") as bar:
        for file in asking.spec.files:
            (question,) = file.questions()
            items = [item for item in todo if question in item.questions]
            if not items:
                continue
            vectors = open_vectors(file, root, asking.corpus, store.root)
            _refuse_width(file, vectors.values.shape[1])
            for item in items:
                first, rows = item.block.first_row, item.block.rows
                said = vectors.of(first, rows)
                if file.about == "word":
                    counts = vectors.counts[first : first + rows]
                    said = at_first_tokens(said, counts, asking.corpus.all_of(item.index))
                kept = storage.encode(said, question.storage)
                _refuse_non_finite(file, question, kept, item, asking.corpus)
                kept |= about_rows(asking.corpus, item.index, question.what)
                asking.corpus.mapped.refuse_changed(asking.corpus.path(item.index))
                read.refuse_changed()
                store.put(asking.full(item.block, question), kept, {"file": file.file})
                bar.advance(item.block.rows, note=question.name)


def _refuse_other(asking: Importing, root: Path) -> None:
    if identity_of(asking.spec, root) != asking.teacher:
        names = " or ".join(file.file for file in asking.spec.files)
        raise ArtifactError(f"{names} was changed while it was read: run the same command again")


def dims(asking: Importing, root: Path) -> Dims:
    """What there is to import; raises as `take_over` does, but for vectors that are not finite."""
    widths = dict[Part, int]()
    for file in asking.spec.files:
        widths[file.what] = width_of(file, root, asking.corpus)
        _refuse_width(file, widths[file.what])
    return _dims(asking.spec, widths)


def _dims(spec: CacheSpec, widths: dict[Part, int]) -> Dims:
    """What a teacher is, as far as files tell; their last layer stands for its last one."""
    logits = next((file for file in spec.files if file.part == "logits"), None)
    states = {file.what: file for file in spec.files if file.part in STATES}
    first = next(iter(states), None)
    for part, file in states.items():
        if first is not None and widths[part] != widths[first]:
            raise ArtifactError(
                f"{file.file} has vectors of {counted(widths[part], 'number')},"
                f" {states[first].file} of {widths[first]}: states of a teacher have one width,"
                " make another cache of some"
            )
    return Dims(
        embedding=widths.get(EMBEDDING, 0),
        hidden=0 if first is None else widths[first],
        layers=max((part.layer or 0 for part in states), default=0),
        heads=0,
        classes=() if logits is None else logits.names,
        problem=None if logits is None else logits.problem,
    )


def _refuse_width(file: Imported, width: int) -> None:
    if file.part == "logits" and width != len(file.names):
        raise ArtifactError(
            f"{file.file} has {counted(width, 'logit')} a {file.about}, expected {len(file.names)}"
            f" ({', '.join(file.names[:_SHOWN])}): mend 'classes' or 'problem_type'"
        )


def _refuse_non_finite(
    file: Imported, question: Question, kept: dict[str, Tensor], item: Todo, corpus: Corpus
) -> None:
    bad = rows_of(storage.not_finite(kept), question.what, item, corpus)
    if bad:
        shown = ", ".join(str(row) for row in bad[:_SHOWN])
        more = " and more" if len(bad) > _SHOWN else ""
        larger = "" if question.storage == "fp32" else ", or set storage: fp32 if it has them not"
        raise NonFiniteError(
            f"{file.file} is NaN or Inf in {question.storage} for row {shown}{more} of the corpus:"
            f" mend the file{larger}"
        )


def facts(asking: Importing, store: Store) -> CacheFacts:
    """What the finished cache is, as the shards and the section of the pipeline file say.

    Raises ArtifactError where a shard cannot be read.
    """
    widths = asking.widths(store)
    dims = _dims(asking.spec, {one.what: widths[one.name] for one in asking.questions})
    return CacheFacts(
        teacher=asking.teacher,
        tokenizer=asking.corpus.facts.tokenizer,
        dtype=asking.dtype,
        difference=None,
        prompt_tokens=asking.corpus.facts.prompt_tokens,
        rows=asking.corpus.facts.rows,
        questions=tuple(asking.questions),
        widths=widths,
        **told_of(dims),
    )
