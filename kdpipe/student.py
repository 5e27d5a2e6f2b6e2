"""From a student's section to an encoder that is ready to learn."""

from __future__ import annotations

import torch

from kdpipe.activations import Dims
from kdpipe.corpus import CorpusFacts
from kdpipe.encoder import Dense, Encoder
from kdpipe.errors import UsageError
from kdpipe.modules import HeadSpec, positions_for_text
from kdpipe.objectives import Objective
from kdpipe.pipeline import StudentSpec
from kdpipe.tokenizer import Tokenizer


def build_student(spec: StudentSpec, teacher: Encoder, tokenizer: Tokenizer) -> Encoder:
    """The student before training: the same bytes for the same spec, teacher and seed.

    It pools and normalises as its teacher does. Where its vectors have another width than they
    should (`embedding_size`, or the teacher's), it gets a dense layer of its own.

    Raises:
        UsageError: a shape, layer or checkpoint that cannot be had.
    """
    torch.manual_seed(spec.train.seed)
    model = spec.model.build(teacher, max(tokenizer.vocabulary, teacher.model.config.vocab_size))
    head = HeadSpec(teacher.head.pooling, teacher.head.include_prompt, teacher.head.normalize)
    student = Encoder(model, head, [])
    wanted = spec.embedding_size or teacher.dims.embedding
    width = student.dims.embedding
    inherited = [layer for layer in teacher.dense if isinstance(layer, Dense)]
    if inherited and inherited[0].linear.in_features == width and wanted == teacher.dims.embedding:
        student = Encoder(model, head, [_copy(layer) for layer in inherited])
    elif width != wanted:
        student = Encoder(model, head, [Dense(width, wanted, activation="Identity")])
    pooler = getattr(model, "pooler", None)
    if pooler is not None:
        # Kept because loaders expect it, but no output of an encoder passes through it.
        pooler.requires_grad_(False)
    return student


def check(
    spec: StudentSpec, student: Encoder, teachers: dict[str, Dims], rows: CorpusFacts
) -> None:
    """Refuse, before the first step, what could not be trained; raises UsageError."""
    positions = positions_for_text(student.model.config.to_dict())
    if positions < rows.longest:
        raise UsageError(
            f"the student has positions for {positions} tokens, the corpus has rows of"
            f" {rows.longest}: raise max_position_embeddings, or lower the corpus' max_seq_length"
        )
    if spec.train.early_stopping_patience and not rows.held_out:
        raise UsageError(
            "early_stopping_patience needs held-out rows: set the corpus' 'validation' above 0"
        )
    for objective in spec.objectives:
        name = objective.cache or spec.caches[0]
        _check_objective(objective, name, student.dims, teachers[name])


def _check_objective(objective: Objective, cache: str, student: Dims, teacher: Dims) -> None:
    of_student, of_teacher = objective.needs()
    for who, needs, dims in (
        ("student", of_student, student),
        (f"teacher of cache {cache!r}", of_teacher, teacher),
    ):
        layers = sorted({part.layer for part in needs if part.layer is not None})
        missing = [layer for layer in layers if layer > dims.layers]
        if missing:
            raise UsageError(
                f"objective {objective.kind!r} names layer {missing[0]} of the {who}, which has"
                f" layers 0 to {dims.layers}"
            )
    if objective.equal_widths and student.embedding != teacher.embedding:
        raise UsageError(
            f"objective {objective.kind!r} compares embeddings of {student.embedding} numbers with"
            f" the teacher's of {teacher.embedding} (cache {cache!r}): use loss: similarity, or"
            f" embedding_size: {teacher.embedding}"
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
