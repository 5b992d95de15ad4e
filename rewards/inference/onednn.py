"""Run linear layers through oneDNN on a CPU in float32, for inference and for training.

torch multiplies float32 matrices with MKL, which runs at half speed on processors by other makers
than Intel; oneDNN, which torch brings too, does not. Weights stay as they are. A training step has
two more matrix products per layer, each of which gains as much.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

__all__ = [
    "onednn_linear",
    "use_onednn",
]


def use_onednn(model: nn.Module) -> bool:
    """Run all plain linear layers of `model` through oneDNN where they can be.

    They can in inference mode, on a CPU, in float32; anywhere else they compute as before. Return
    False, with nothing changed, where this torch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, _OPERATION):
        return False
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = partial(_linear, module)  # type: ignore[method-assign]
    return True


# the operation that torch's own compiler turns a linear layer into
_OPERATION = "_linear_pointwise"


def _linear(module: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    weight, bias = module.weight, module.bias
    fits = states.device.type == "cpu" and states.dtype == weight.dtype == torch.float32
    if not (fits and states.is_contiguous() and torch.is_inference_mode_enabled()):
        return nn.functional.linear(states, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


@contextlib.contextmanager
def onednn_linear(model: nn.Module) -> Iterator[None]:
    """Run the plain linear layers of `model` through oneDNN inside the block, where they can be.

    They can on a CPU, in float32; anywhere else, and where this torch has no oneDNN, they compute
    as before. Values and gradients are those of torch's own layer, to rounding.
    """
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, _OPERATION)
    layers = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m)]
    layers = layers if known else []
    for layer in layers:
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    weight, bias = layer.weight, layer.bias
    if states.device.type != "cpu" or not states.dtype == weight.dtype == torch.float32:
        return nn.functional.linear(states, weight, bias)
    return _Linear.apply(states, weight, bias)  # type: ignore[return-value]


class _Linear(torch.autograd.Function):
    """A linear layer y = x Wᵀ + b; for a gradient g of y: ∂x = g W, ∂W = gᵀ x, ∂b = Σ g."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(states, weight)
        flat_NI = states.reshape(-1, states.shape[-1])
        return _product(flat_NI, weight, bias).reshape(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        states, weight = ctx.saved_tensors
        flat_NO, flat_NI = (x.reshape(-1, x.shape[-1]) for x in (gradient, states))
        wanted = ctx.needs_input_grad
        return (
            _product(flat_NO, weight.t()).reshape(states.shape) if wanted[0] else None,
            _product(flat_NO.t(), flat_NI.t()) if wanted[1] else None,
            flat_NO.sum(0) if wanted[2] else None,
        )


def _product(
    left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return `left` (M, K) times the transpose of `right` (N, K), plus `bias` (N,): (M, N)."""
    return getattr(torch.ops.mkldnn, _OPERATION)(left, right, bias, "none", [], "")
