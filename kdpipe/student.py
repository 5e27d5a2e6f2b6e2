"""From a student's section to an encoder that is ready to learn."""

from __future__ import annotations

import torch

from kdpipe.activations import Dims
from kdpipe.encoder import Dense, Encoder
from kdpipe.errors import UsageError
from kdpipe.modules import HeadSpec
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


def check_positions(student: Encoder, max_seq_length: int) -> None:
    """Refuse a student that has fewer positions than the corpus' rows may have tokens."""
    config = student.model.config
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions < max_seq_length:
        raise UsageError(
            f"the student has {positions} positions, the corpus has rows of up to {max_seq_length}"
            " tokens: raise max_position_embeddings, or lower the corpus' max_seq_length"
        )


def check_layers(spec: StudentSpec, student: Dims, teachers: dict[str, Dims]) -> None:
    """Refuse layer maps that name layers which student or teacher do not have."""
    for objective in spec.objectives:
        of_student, of_teacher = objective.needs()
        name = objective.cache or spec.caches[0]
        for who, needs, dims in (
            ("student", of_student, student),
            (f"teacher of cache {name!r}", of_teacher, teachers[name]),
        ):
            missing = [layer for layer in sorted(needs.hidden) if layer > dims.layers]
            if missing:
                raise UsageError(
                    f"objective {objective.kind!r} names layer {missing[0]} of the {who}, which has"
                    f" layers 0 to {dims.layers}"
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
