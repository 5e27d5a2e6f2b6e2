"""From a student's section to an encoder that is ready to learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from kdpipe import heads
from kdpipe.activations import Dims
from kdpipe.corpus import CorpusFacts
from kdpipe.encoder import Dense, Encoder
from kdpipe.errors import UsageError
from kdpipe.modules import HeadSpec, positions_for_text
from kdpipe.nets.crf import CRF
from kdpipe.pipeline import Head, StudentSpec
from kdpipe.students import FromTeacher
from kdpipe.tokenizer import Tokenizer


def build_student(
    spec: StudentSpec,
    teacher: Encoder | None,
    tokenizer: Tokenizer,
    labels: tuple[str, ...],
    *,
    alike: bool = True,
    imported: Dims | None = None,
    body: PreTrainedModel | None = None,
) -> Encoder:
    """The student before training: the same bytes for the same spec, teacher and seed.

    It pools and normalises as its teacher does; without one that is run it takes means. Where its
    vectors have another width than they should (`embedding_size`, or the teacher's), it gets a
    dense layer of its own. `labels` are the different ones of the corpus; `alike` says whether it
    reads the teacher's tokens; `imported` is what files have in place of a teacher; `body` is what
    `build_body` made of another teacher than its own, before anything else was random.

    Raises:
        UsageError: a shape, layer or checkpoint that cannot be had, or a head without classes.
    """
    model = build_body(spec, teacher, tokenizer, alike=alike) if body is None else body
    if spec.head is not None:
        origins = [spec.model.headed(spec.head.kind), teacher if alike else None]
        of_files = imported is not None and _is_about(spec.head, imported) and imported.classes
        return _with_head(spec.head, model, teacher, origins, of_files or labels)
    pooler = getattr(model, "pooler", None)
    if pooler is not None:
        # Kept because loaders expect it, but no output of an encoder passes through it.
        pooler.requires_grad_(False)
    theirs = imported if teacher is None else teacher.dims
    if theirs is None or not (theirs.embedding or theirs.layers):
        raise UsageError(
            "a student without embeddings or states to learn from learns labels or logits: give it"
            " a 'head'"
        )
    head, inherited = HeadSpec(), list[Dense]()
    if teacher is not None:
        head = HeadSpec(teacher.head.pooling, teacher.head.include_prompt, teacher.head.normalize)
        inherited = [layer for layer in teacher.dense if isinstance(layer, Dense)]
    student = Encoder(model, head, [])
    width = student.dims.embedding
    wanted = spec.embedding_size or theirs.embedding or width
    if inherited and inherited[0].linear.in_features == width and wanted == theirs.embedding:
        student = Encoder(model, head, [_copy(layer) for layer in inherited])
    elif width != wanted:
        student = Encoder(model, head, [Dense(width, wanted, activation="Identity")])
    return student


def _is_about(head: Head, imported: Dims) -> bool:
    """Whether logits in files are of such a head."""
    if head.kind == "sequence":
        return imported.problem not in {"token", "span"}
    return imported.problem == head.kind


def build_body(
    spec: StudentSpec, teacher: Encoder | None, tokenizer: Tokenizer, *, alike: bool
) -> PreTrainedModel:
    """The transformer of a student before training; raises as `build_student` does."""
    torch.manual_seed(spec.train.seed)
    if not alike and isinstance(spec.model, FromTeacher):
        raise UsageError(
            "the student reads other tokens than its teacher, so it cannot take over its layers:"
            " use kind: shape or kind: checkpoint"
        )
    return spec.model.build(teacher if alike else None, tokenizer)


def _with_head(
    head: Head,
    base: PreTrainedModel,
    teacher: Encoder | None,
    origins: Sequence[Encoder | None],
    labels: tuple[str, ...],
) -> Encoder:
    """A model with a head: that of the first of `origins` that has such a one, else a fresh one."""
    keys = _keys(head, teacher, labels)
    model = heads.put_on(base, head.kind, **keys)
    made = Encoder(model, HeadSpec(), [], head.kind)
    if head.crf:
        made.crf = CRF(len(made.dims.classes))
    for origin in origins:
        if origin is None or (origin.answers, origin.dims.classes) != (
            head.kind,
            made.dims.classes,
        ):
            continue
        if heads.copy(origin.model, model):
            if made.crf is not None and origin.crf is not None:
                made.crf.load_state_dict(origin.crf.state_dict())
            break
    return made


def _keys(head: Head, teacher: Encoder | None, labels: tuple[str, ...]) -> dict[str, Any]:
    """What a config says of a head: its classes, and what its logits mean."""
    if head.kind == "mlm":
        return {}
    keys: dict[str, Any] = {"problem_type": head.problem_type if head.kind == "sequence" else None}
    said = teacher.dims.classes if teacher is not None and teacher.answers == head.kind else labels
    classes = head.classes or said
    if head.kind == "span":
        classes = heads.ENDS_OF_SPAN
    elif keys["problem_type"] == "regression":
        classes = heads.NUMBER
    elif len(classes) < 2:
        raise UsageError(
            f"the head of the student needs classes, the corpus has {len(classes)} different"
            " labels: set label_column of its sources, or 'classes' of the head"
        )
    keys["id2label"] = dict(enumerate(classes))
    keys["label2id"] = {name: number for number, name in enumerate(classes)}
    return keys


def check(spec: StudentSpec, student: Encoder, rows: CorpusFacts, *, labelled: bool) -> None:
    """Refuse, before the first step, what could not be trained; raises UsageError."""
    positions = positions_for_text(student.model.config.to_dict())
    if positions < rows.longest:
        raise UsageError(
            f"the student has positions for {positions} tokens, the corpus has rows of"
            f" {rows.longest}: raise max_position_embeddings, or lower the corpus' max_seq_length"
        )
    masked = student.answers == "mlm"
    if masked and not rows.masked:
        raise UsageError(
            "a head of kind mlm guesses masked tokens, the corpus has none: set its"
            " 'mlm_probability', such as 0.15, and run 'kdpipe tokenize'"
        )
    for objective in spec.objectives:
        told = labelled or masked or objective.pseudo_labelled
        if objective.reads_labels and not told:
            raise UsageError(
                f"objective {objective.kind!r} needs labels, the corpus has none: set label_column"
                " of its sources"
            )
    if spec.train.early_stopping_patience and not rows.held_out:
        raise UsageError(
            "early_stopping_patience needs held-out rows: set the corpus' 'validation' above 0"
        )


def _copy(layer: Dense) -> Dense:
    copied = Dense(
        layer.linear.in_features,
        layer.linear.out_features,
        bias=layer.linear.bias is not None,
        activation=layer.activation,
    )
    copied.load_state_dict(layer.state_dict())
    return copied
