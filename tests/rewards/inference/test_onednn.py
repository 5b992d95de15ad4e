"""Linear layers through oneDNN give what torch's own do, and step aside where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rewards.inference.onednn import use_onednn


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 7, 24), (5, 24), (0, 24)])
def test_the_same_products(bias, shape):
    torch.manual_seed(0)
    layer = nn.Linear(24, 17, bias=bias)
    states = torch.randn(shape)
    expected = (states.double() @ layer.weight.double().T).detach().numpy()
    expected = expected + (layer.bias.double().detach().numpy() if bias else 0)
    if not use_onednn(layer):
        pytest.skip("this torch has no oneDNN")
    with torch.inference_mode():
        np.testing.assert_allclose(layer(states).numpy(), expected, atol=1e-5)
        # a view with gaps
        np.testing.assert_allclose(
            layer(torch.cat([states, states], -1)[..., :24]).numpy(), expected, atol=1e-5
        )


def test_training_and_other_dtypes_are_left_alone():
    layer = nn.Linear(8, 4)
    use_onednn(layer)
    layer(torch.randn(3, 8)).sum().backward()
    assert layer.weight.grad is not None
    with torch.inference_mode():
        assert layer.bfloat16()(torch.randn(3, 8).bfloat16()).dtype == torch.bfloat16


def test_only_plain_layers_are_changed():
    class Own(nn.Linear):
        def forward(self, states):
            return states

    model = nn.Sequential(Own(8, 4), nn.LayerNorm(8))
    use_onednn(model)
    states = torch.randn(2, 8)
    with torch.inference_mode():
        assert torch.equal(model[0](states), states)
