"""Linear layers through oneDNN: values and gradients of torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rewards.inference.onednn import onednn_linear


class Small(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(48, 80, bias=bias), nn.Linear(80, 16, bias=bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(states)))


def gradients(model: nn.Module, states: torch.Tensor) -> list[torch.Tensor]:
    states = states.clone().requires_grad_()
    model.zero_grad()
    found = model(states)
    (found**2).sum().backward()
    assert states.grad is not None
    return [
        found.detach(),
        states.grad,
        *(p.grad for p in model.parameters() if p.grad is not None),
    ]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(48,), (7, 48), (3, 33, 48), (1, 48)])
def test_values_and_gradients_are_torchs(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, states = Small(bias), torch.randn(shape)
    expected = gradients(model, states)
    with onednn_linear(model):
        found = gradients(model, states)
    assert len(found) == len(expected) == (6 if bias else 4)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


def test_views_that_are_not_contiguous_do_too() -> None:
    torch.manual_seed(0)
    model, states = Small(True), torch.randn(48, 9).t()
    expected = gradients(model, states)
    with onednn_linear(model):
        found = model(torch.randn(48, 9).t().copy_(states))
    assert torch.allclose(found, expected[0], atol=1e-5)


def test_frozen_weights_have_no_gradient() -> None:
    model, states = Small(True), torch.randn(5, 48)
    model.first.requires_grad_(False)
    with onednn_linear(model):
        assert len(gradients(model, states)) == 4
    assert model.first.weight.grad is None


def test_other_precisions_are_left_alone() -> None:
    model, states = Small(True).double(), torch.randn(5, 48, dtype=torch.float64)
    expected = model(states)
    with onednn_linear(model):
        assert torch.equal(model(states), expected)


def test_the_layers_are_torchs_own_again_afterwards() -> None:
    model = Small(True)
    with pytest.raises(KeyError), onednn_linear(model):
        assert "forward" in vars(model.first)
        copied = copy.deepcopy(model)
        copied.first.weight.data.zero_()
        assert model.first.weight.abs().sum() > 0
        assert float(copied(torch.ones(1, 48)).abs().sum()) != float(
            model(torch.ones(1, 48)).abs().sum()
        )
        raise KeyError
    assert not any("forward" in vars(layer) for layer in model.modules())
