"""One call of `varlen_attn` a layer: what a call for each segment gives, and its gradients."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import varlen_reference

from rewards.inference import packed_attention
from rewards.inference.backbone import Backbone
from rewards.inference.prefix_tree import Tree, grow

CPU = torch.device("cpu")


def rows(shared: bool) -> list[list[int]]:
    """Of 1 to 130 tokens; some begin another, and one is there twice."""
    draw = np.random.default_rng(0)
    stem = draw.integers(3, 259, size=120).tolist()
    cuts = (
        ((120, 5), (120, 10), (60, 9), (17, 0), (1, 0), (60, 9), (120, 0), (0, 1))
        if shared
        else ((1, 0), (3, 9), (2, 40))
    )
    return [stem[:cut] + draw.integers(3, 259, size=more).tolist() for cut, more in cuts]


def attended(
    tree: Tree, heads: int, groups: int, **settings: Any
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Outputs of the function that is registered, and the gradients of queries, keys, values."""
    torch.manual_seed(0)
    states = [
        torch.randn(1, count, len(tree.ids_T), 16, dtype=torch.float64, requires_grad=True)
        for count in (heads, groups, groups)
    ]
    attend: Any = packed_attention._attention
    with packed_attention.attending(tree, CPU):
        output, weights = attend(torch.nn.Module(), *states, None, **settings)
    assert weights is None
    return output, list(torch.autograd.grad((output * torch.randn_like(output)).sum(), states))


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (6, 2), (4, 1)])
@pytest.mark.parametrize("window", [None, 1, 20, 1000])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_one_call_gives_what_a_call_for_each_segment_does(
    monkeypatch: pytest.MonkeyPatch,
    shared: bool,
    heads: int,
    groups: int,
    window: int | None,
    scaling: float | None,
) -> None:
    tree = grow(rows(shared))
    assert any(one.ancestors for one in tree.segments) == shared
    how: dict[str, Any] = {"scaling": scaling, "sliding_window": window}
    expected, gradients = attended(tree, heads, groups, **how)
    assert not packed_attention.took_one_call()
    calls = varlen_reference.on_cpu(monkeypatch)
    found, own = attended(tree, heads, groups, **how)
    assert packed_attention.took_one_call()
    assert len(calls) == 1
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    for one, other in zip(own, gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("heads", "window"), [(1, None), (2, None), (2, 32)], ids=["grouped", "plain", "window"]
)
def test_a_model_scores_and_trains_the_same(
    monkeypatch: pytest.MonkeyPatch, heads: int, window: int | None
) -> None:
    def run() -> tuple[torch.Tensor, dict[str, torch.Tensor], bool]:
        backbone = tiny_backbone(heads, window)
        assert backbone.layout == "packed"
        own = rows(shared=True)
        states = backbone.states(own, [[0, len(row) // 2, len(row) - 1] for row in own])
        tree = grow(own)
        arrays = {"input_ids": tree.ids_T[None], "position_ids": tree.positions_T[None]}
        with packed_attention.attending(tree, CPU):
            inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
            backbone.model(**inputs, use_cache=False).last_hidden_state.pow(3).sum().backward()
        gradients = {name: p.grad for name, p in backbone.model.named_parameters()}
        return states, gradients, packed_attention.took_one_call()

    expected, gradients, one_call = run()
    assert not one_call
    calls = varlen_reference.on_cpu(monkeypatch)
    found, own, one_call = run()
    assert one_call
    assert len(calls) == 3 * 2  # two layers: of rows to try packing on, of states, of gradients
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    for name, gradient in gradients.items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(own[name], gradient, atol=1e-6 * max(1, size), rtol=1e-4)


def tiny_backbone(groups: int, window: int | None) -> Backbone:
    from transformers import AutoModel, MistralConfig

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=259, hidden_size=64, intermediate_size=64, num_hidden_layers=2, head_dim=32,
        num_attention_heads=2, num_key_value_heads=groups, sliding_window=window,
    )  # fmt: skip
    return Backbone(AutoModel.from_config(config))


def test_the_reference_has_the_arguments_of_torchs_own() -> None:
    from torch.nn.attention.varlen import varlen_attn

    def taken(function: Callable[..., object]) -> list[tuple[str, object, object]]:
        parameters = inspect.signature(function).parameters.values()
        return [(one.name, one.kind, one.default) for one in parameters]

    assert taken(varlen_reference.varlen_attn) == taken(varlen_attn)


def test_torchs_own_function_takes_the_call_and_gives_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # tensors without values: torch knows the shapes of what its kernel gives
    monkeypatch.setattr(packed_attention, "_kernel_dtype", lambda *given: torch.bfloat16)
    tree = grow([list(range(20)), [*range(20), *range(20, 39)], [7]])
    assert len(tree.ids_T) == 40
    attend: Any = packed_attention._attention
    # under autocast rotations leave queries and keys in float32, beside values of 16 bits
    states = [
        torch.empty(1, heads, 40, 64, device="meta", dtype=dtype, requires_grad=True)
        for heads, dtype in ((4, torch.float32), (2, torch.float32), (2, torch.bfloat16))
    ]
    for window in (None, 8):
        with packed_attention.attending(tree, torch.device("meta")):
            output, _ = attend(torch.nn.Module(), *states, None, scaling=0.1, sliding_window=window)
        assert (output.shape, output.dtype) == ((1, 40, 4, 64), torch.bfloat16)
        output.sum().backward()
    for state in states:
        assert state.grad is not None
        assert (state.grad.shape, state.grad.dtype) == (state.shape, state.dtype)


def test_what_the_kernel_does_not_take_goes_segment_by_segment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    def taken_in(
        size: int = 64, dtype: Any = torch.bfloat16, values: int = 0, cap: float | None = None
    ) -> torch.dtype | None:
        with FakeTensorMode(), torch.no_grad():  # says to be on a GPU
            query, value = (
                torch.empty(1, 2, 40, one, device="cuda", dtype=dtype)
                for one in (size, values or size)
            )
        return packed_attention._kernel_dtype(query, value, cap)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    assert [size for size in range(1, 300) if taken_in(size)] == [
        size for size in range(8, 257, 8) if size not in (200, 208, 216, 224)
    ]
    assert [taken_in(dtype=one) for one in (torch.float16, torch.float32)] == [torch.float16, None]
    assert taken_in(values=32) is None
    assert taken_in(cap=50.0) is None
    with monkeypatch.context() as autocast:
        autocast.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
        autocast.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
        assert taken_in(dtype=torch.float32) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert taken_in() is None
