"""How a student is trained: the section `train` of a pipeline file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    FiniteFloat,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from kdpipe.config import Frozen, nearest

_OPTIM_ARGS = {
    "adamw_torch": ("amsgrad",),
    "adafactor": ("beta2_decay", "d"),
    "sgd": ("momentum", "dampening", "nesterov"),
}


class TrainSpec(Frozen):
    """How a student is trained; names and meanings are those of transformers' TrainingArguments."""

    num_train_epochs: PositiveFloat = 1.0
    max_steps: int = -1
    """Total steps; overrides `num_train_epochs` when positive."""
    tokens_per_batch: PositiveInt = 4096
    """Padded tokens in one forward pass of the student."""
    gradient_accumulation_steps: PositiveInt = 1
    parallel_batches: bool = False
    """Whether each batch of rows with a label has one of rows without beside it in its step."""
    optim: Literal["adamw_torch", "adafactor", "sgd"] = "adamw_torch"
    """`torch.optim.AdamW`, `Adafactor` or `SGD`."""
    optim_args: dict[str, bool | FiniteFloat] = {}
    """What else that takes: `amsgrad`; `beta2_decay`, `d`; `momentum`, `dampening`, `nesterov`."""
    learning_rate: PositiveFloat = 2e-4
    weight_decay: NonNegativeFloat = 0.01
    adam_beta1: NonNegativeFloat = 0.9
    adam_beta2: NonNegativeFloat = 0.999
    adam_epsilon: PositiveFloat = 1e-8
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: NonNegativeFloat = 0.05
    """Steps; below 1 a share of all steps."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients are clipped to this norm; 0 does not clip."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    bf16: bool | Literal["auto"] = "auto"
    """Autocast to bf16; `auto`: where the hardware has it, and `fp16` is not asked for."""
    fp16: bool = False
    """Autocast to fp16, with a loss that is scaled up as far as gradients have room for it."""
    torch_compile: bool = False
    eval_steps: PositiveInt | None = None
    """Measure the held-out rows every so many steps; None: once an epoch."""
    save_steps: PositiveInt | Annotated[float, Field(gt=0.0, lt=1.0)] = 500
    """Save every so many steps, below 1 a share of all steps, to continue a run from there;
    speed only, but for `save_total_limit`."""
    save_total_limit: PositiveInt | None = 1
    """At how many of the last saves the student is kept as a model of its own: 1 keeps none beside
    the student itself, None keeps all."""
    logging_steps: PositiveInt = 10
    """One line in `steps.tsv` every so many steps."""
    metric_for_best_model: Literal["eval_loss", "eval_cosine", "eval_accuracy", "eval_f1"] = (
        "eval_loss"
    )
    """Measured on held-out rows; `eval_cosine` is the mean cosine to the teacher's embedding,
    `eval_accuracy` the share of rows or words whose class is right, `eval_f1` that of entities."""
    load_best_model_at_end: bool = True
    """Keep the best model by that metric (the last one is kept too); false keeps the last alone."""
    early_stopping_patience: PositiveInt | None = None
    """Stop after so many measurements without a better one; None never does."""

    @model_validator(mode="after")
    def _one_dtype(self) -> TrainSpec:
        if self.fp16 and self.bf16 is True:
            raise ValueError("fp16: true and bf16: true are two number types: take one of them out")
        return self

    @model_validator(mode="after")
    def _keys_of_the_optimizer(self) -> TrainSpec:
        for key in self.optim_args:
            if key not in _OPTIM_ARGS[self.optim]:
                allowed = nearest(key, [*_OPTIM_ARGS[self.optim]])
                raise ValueError(f"optim_args of {self.optim} have no {key!r}: {allowed}")
        for key in ("adam_beta1", "adam_beta2", "adam_epsilon"):
            if self.optim != "adamw_torch" and key in self.model_fields_set:
                raise ValueError(f"key {key!r} is about adamw_torch, not {self.optim}: take it out")
        return self
