"""Linear layers whose weights and inputs are 8 bits wide, for a teacher on a CPU.

Legend: I inputs, O outputs of a layer. Weights get one scale for each output, inputs one for all of
a pass, found in it (dynamic quantization, as in Zafrir et al. 2019, "Q8BERT"; unlike there nothing
is trained for it). What stands between the layers stays fp32.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

_ENGINE = "onednn"
_STEPS = 127


class Int8Linear(nn.Module):
    """Does what an `nn.Linear` does, nearly; the products are exact, their factors rounded."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        # Some models look at it.
        self.register_parameter("weight", None)
        weight = layer.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / _STEPS
        bias = None if layer.bias is None else layer.bias.detach().float()
        with warnings.catch_warnings():
            # Its form is deprecated for models that are saved; here it lives as long as a process.
            warnings.simplefilter("ignore")
            torch.backends.quantized.engine = _ENGINE
            zero = torch.zeros(len(weight), dtype=torch.long)
            rounded = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(rounded, bias)

    def forward(self, states: Tensor) -> Tensor:
        """[..., I] to [..., O], fp32."""
        said: Tensor = torch.ops.quantized.linear_dynamic(states, self._packed, False)
        return said


def round_linear(model: nn.Module, kept: set[int]) -> None:
    """Put an `Int8Linear` in place of linear layers, but for weights whose `id` is in `kept`."""
    for name, module in [*model.named_modules()]:
        if isinstance(module, nn.Linear) and id(module.weight) not in kept:
            above, _, own = name.rpartition(".")
            setattr(model.get_submodule(above), own, Int8Linear(module))
