"""The optimizer of a run: which weights it moves, how fast, and what it remembers of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdpipe.encoder import Encoder
from kdpipe.errors import UsageError
from kdpipe.terms import Terms
from kdpipe.train_spec import TrainSpec

_NO_DECAY = (nn.LayerNorm, nn.RMSNorm)


def new_optimizer(
    spec: TrainSpec, student: Encoder, terms: Terms, device: torch.device
) -> torch.optim.Optimizer:
    """That of a run before its first step; raises UsageError for arguments that it does not take.

    Each of its groups has a `share`: its learning rate in terms of the student's.
    """
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "adamw_torch": torch.optim.AdamW,
        "adafactor": torch.optim.Adafactor,
        "sgd": torch.optim.SGD,
    }
    arguments: dict[str, Any] = {"lr": spec.learning_rate, **spec.optim_args}
    if spec.optim == "adamw_torch":
        arguments |= {
            "betas": (spec.adam_beta1, spec.adam_beta2),
            "eps": spec.adam_epsilon,
            "fused": device.type in {"cpu", "cuda"},
        }
    try:
        return kinds[spec.optim](groups(spec, student, terms), **arguments)
    except ValueError as error:
        raise UsageError(f"train.optim {spec.optim!r} refuses its settings: {error}") from None


def groups(spec: TrainSpec, student: Encoder, terms: Terms) -> list[dict[str, Any]]:
    """All that learns; biases and the weights of normalisations do not decay, as in transformers.

    `share` of a group is its learning rate in terms of the student's.
    """
    modules = nn.ModuleDict({"student": student, "terms": terms})
    still = {
        id(p)
        for module in modules.modules()
        for name, p in module.named_parameters(recurse=False)
        if isinstance(module, _NO_DECAY) or name.endswith("bias")
    }
    rates = {f"terms.{prefix}": rate for prefix, rate in terms.learning_rates().items()}
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in modules.named_parameters():
        if parameter.requires_grad:
            own = (rate for prefix, rate in rates.items() if name.startswith(prefix))
            share = next(own, spec.learning_rate) / spec.learning_rate
            decay = 0.0 if id(parameter) in still else spec.weight_decay
            found.setdefault((share, decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "share": share}
        for (share, decay), parameters in found.items()
    ]


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All that it moves, always in the same order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def memory_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`<position>.<slot>` -> tensor; the groups' options come from the spec."""
    return {
        f"{position}.{slot}": value
        for position, parameter in enumerate(parameters_of(optimizer))
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def remember(optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
    """Take over what `memory_of` gave."""
    parameters = parameters_of(optimizer)
    fused = bool(optimizer.param_groups[0].get("fused"))
    for name, value in kept.items():
        position, _, slot = name.partition(".")
        parameter = parameters[int(position)]
        state: dict[str, Any] = optimizer.state[parameter]
        # The step counter stays on the CPU unless the fused kernel of a GPU reads it.
        device = parameter.device if slot != "step" or fused else torch.device("cpu")
        state[slot] = value.to(device)
