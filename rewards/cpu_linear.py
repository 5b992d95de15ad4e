"""Linear layers through oneDNN on a CPU, for inference in float32.

torch multiplies float32 matrices with MKL, which leaves half of the speed of processors by other
makers than Intel unused; oneDNN, which torch brings too, does not. The weights stay as they are.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

__all__ = ["use_onednn"]


def use_onednn(model: nn.Module) -> bool:
    """Let all plain linear layers of `model` go through oneDNN where they can.

    They can in inference mode, on a CPU, in float32; anywhere else they do as before. False where
    this torch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, _OPERATION):
        return False
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = partial(_linear, module)  # type: ignore[method-assign]
    return True


# what torch's own compiler turns a linear layer into
_OPERATION = "_linear_pointwise"


def _linear(module: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    weight, bias = module.weight, module.bias
    fits = states.device.type == "cpu" and states.dtype == weight.dtype == torch.float32
    if not (fits and states.is_contiguous() and torch.is_inference_mode_enabled()):
        return nn.functional.linear(states, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
