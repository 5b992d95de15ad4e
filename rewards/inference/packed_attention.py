"""Attention over packed rows (`prefix_tree`), as an attention function of transformers.

Registered once under a name of our own; the tree of the running forward pass is handed over beside
the model, since not every architecture passes unknown arguments on to its attention.

On a GPU in 16 bits a layer is one call of torch's `varlen_attn` (FlashAttention), with the segments
as its sequences; elsewhere it is a call for each segment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from rewards.inference.prefix_tree import Tree

__all__ = [
    "PACKED",
    "ROWS",
    "attending",
    "recomputing",
    "register",
    "took_one_call",
    "uses_sliding_window",
]

PACKED = "raft_packed"
ROWS = "raft_rows"
# arguments of attention layers that change nothing here, or that are heeded
_HEEDED = {
    "cache_position", "cu_seq_lens_k", "cu_seq_lens_q", "max_length_k", "max_length_q",
    "output_router_logits", "position_embeddings", "position_ids", "return_dict", "seq_idx",
    "sliding_window", "use_cache",
}  # fmt: skip
_running: ContextVar[_Plan | None] = ContextVar("packed_attention_plan", default=None)


@dataclass
class _Layers:
    """The windows that layers of a forward pass were told of, and whether each was one call."""

    windows: set[int | None] = field(default_factory=set[int | None])
    one_call: set[bool] = field(default_factory=set[bool])


_last: ContextVar[_Layers | None] = ContextVar("layers_of_last_pass", default=None)


@dataclass(frozen=True)
class _Sequences:
    """A tree of S segments in `varlen_attn`'s terms: where queries and keys of each segment end
    (S + 1,), and the packed token that each key is of; None where keys are the tokens in order."""

    ends_q: torch.Tensor
    ends_k: torch.Tensor
    longest_q: int
    longest_k: int
    keys: torch.Tensor | None


class _Plan:
    """A tree and the masks it needs; a mask serves every layer that has the same window."""

    def __init__(self, tree: Tree, device: torch.device) -> None:
        self.segments = tree.segments
        self._device = device
        self.layers = _Layers()
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}

    @cached_property
    def sequences(self) -> _Sequences:
        sizes = [segment.end - segment.start for segment in self.segments]
        # ancestors and own tokens together are the row from its first token on
        seen = [segment.end for segment in self.segments]
        ends_q, ends_k = (
            torch.from_numpy(np.cumsum([0, *counts], dtype=np.int32)).to(self._device)
            for counts in (sizes, seen)
        )
        keys = None
        if any(segment.ancestors for segment in self.segments):
            tokens = [np.arange(one.offset, one.offset + size)
                      for one, size in zip(self.segments, sizes, strict=True)]  # fmt: skip
            parts = [tokens[n] for number, one in enumerate(self.segments)
                     for n in (*one.ancestors, number)]  # fmt: skip
            keys = torch.from_numpy(np.concatenate(parts)).to(self._device)
        return _Sequences(ends_q, ends_k, max(sizes), max(seen), keys)

    def pieces(self, states_1HTD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split states into one piece per segment; segments lie end to end, in order.

        Slices would be slow: the gradient of a slice is a tensor of the whole packed length, so
        that S segments would cost S times the sequence in every backward pass.
        """
        return states_1HTD.split([segment.end - segment.start for segment in self.segments], dim=2)

    def seen(self, pieces: tuple[torch.Tensor, ...], number: int) -> torch.Tensor:
        """Return the keys or values that a segment sees: its ancestors' and its own."""
        ancestors = self.segments[number].ancestors
        if not ancestors:
            return pieces[number]
        return torch.cat([*(pieces[n] for n in ancestors), pieces[number]], dim=2)

    def mask(self, number: int, window: int | None) -> torch.Tensor:
        """Return a mask (queries, keys), True where a query of the segment sees a key."""
        if (number, window) not in self._masks:
            segment = self.segments[number]
            queries = torch.arange(segment.start, segment.end, device=self._device)[:, None]
            # ancestors and own tokens together are the row from its first token on
            keys = torch.arange(segment.end, device=self._device)[None, :]
            seen = keys <= queries
            if window is not None:
                seen &= keys > queries - window
            self._masks[number, window] = seen
        return self._masks[number, window]


def register() -> None:
    """Register `PACKED` and `ROWS` with transformers; doing it twice changes nothing.

    `PACKED` attends along a tree. `ROWS` is transformers' sdpa, with its masks, but one call of the
    kernel where it can be and a forward pass says where packed rows begin, as trl's collator does.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ROWS, _attention_of_rows)
    AttentionMaskInterface.register(ROWS, sdpa_mask)
    AttentionInterface.register(PACKED, _attention)
    # the tree, not a mask, says which keys a query sees
    AttentionMaskInterface.register(PACKED, lambda *arguments, **settings: None)


@contextlib.contextmanager
def attending(tree: Tree, device: torch.device) -> Iterator[None]:
    """Let forward passes in this block attend along `tree`."""
    plan = _Plan(tree, device)
    try:
        with _along(plan):
            yield
    finally:
        _last.set(plan.layers)


def recomputing() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what `torch.utils.checkpoint` enters around a layer and around its recomputation.

    Layers are computed again in the backward pass, after the block of `attending`: along the tree
    of the forward pass, so that packed rows go with recomputed activations (its `context_fn`).
    """
    return contextlib.nullcontext(), _along(_running.get())


@contextlib.contextmanager
def _along(plan: _Plan | None) -> Iterator[None]:
    token = _running.set(plan)
    try:
        yield
    finally:
        _running.reset(token)


def took_one_call() -> bool:
    """Return whether each layer of this context's last packed forward pass was one call."""
    layers = _last.get()
    return layers is not None and layers.one_call == {True}


def uses_sliding_window() -> bool:
    """Return whether a layer of this context's last packed forward pass was told of a window.

    Some architectures tell of it by their mask alone, which packed attention never sees.
    """
    layers = _last.get()
    return layers is not None and any(window is not None for window in layers.windows)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **settings: object,
) -> tuple[torch.Tensor, None]:
    """Return outputs (1, T, H, D) of queries (1, H, T, D): transformers' signature and axes."""
    plan = _running.get()
    if plan is None:
        raise RuntimeError("packed attention was called outside of a packed forward pass")
    plan.layers.windows.add(sliding_window)
    dtype = _kernel_dtype(query, value, softcap)
    plan.layers.one_call.add(dtype is not None)
    if dtype is not None:
        states = (query.to(dtype), key.to(dtype), value.to(dtype))
        return _in_one_call(plan.sequences, *states, scaling, sliding_window), None
    return _by_segments(plan, query, key, value, scaling, sliding_window, softcap), None


def _attention_of_rows(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    ends, dtype = settings.get("cu_seq_lens_q"), None
    if ends is not None and not dropout and _is_causal_alone(module, settings):
        dtype = _kernel_dtype(query, value, None)
    if ends is None or dtype is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask,
            dropout=dropout, scaling=scaling, **settings,
        )  # fmt: skip
    longest: int = settings["max_length_q"]
    rows = _Sequences(ends, ends, longest, longest, None)
    states = (query.to(dtype), key.to(dtype), value.to(dtype))
    return _in_one_call(rows, *states, scaling, settings.get("sliding_window")), None


def _is_causal_alone(module: nn.Module, settings: Mapping[str, Any]) -> bool:
    """Return whether a layer's mask says no more than rows, order and the window it is told."""
    if not (getattr(module, "is_causal", True) and settings.get("is_causal", True) is not False):
        return False
    config = getattr(module, "config", None)
    in_mask = [
        "attention_chunk_size",
        *([] if "sliding_window" in settings else ["sliding_window"]),
    ]
    if any(getattr(config, name, None) for name in in_mask):
        return False
    others = (settings[name] for name in settings.keys() - _HEEDED - {"is_causal"})
    return all(one is None or one is False for one in others)


def _kernel_dtype(
    query: torch.Tensor, value: torch.Tensor, softcap: float | None
) -> torch.dtype | None:
    """Return the dtype in which `varlen_attn` takes these states; None where it cannot.

    It is FlashAttention 2: Ampere or newer, 16 bits, and heads of these sizes (between 192 and 224
    not every GPU has the gradient). Autocast does not cast for it, so its dtype is returned here.
    """
    device, size = query.device, query.shape[-1]
    if device.type != "cuda" or softcap is not None or value.shape[-1] != size:
        return None
    if size % 8 or size > 256 or 192 < size <= 224:
        return None
    autocast = torch.is_autocast_enabled("cuda")
    dtype = torch.get_autocast_dtype("cuda") if autocast else query.dtype
    if dtype not in (torch.float16, torch.bfloat16):
        return None
    return dtype if torch.cuda.get_device_capability(device)[0] >= 8 else None


def _in_one_call(
    them: _Sequences,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    """Compute `_attention` by one call of the kernel. Its causal mask is aligned at the end of each
    sequence, as it should be: a segment's queries are the last tokens of what it sees."""
    from torch.nn.attention.varlen import varlen_attn  # it loads torch's compiler

    query_THD, key_THD, value_THD = (one[0].transpose(0, 1) for one in (query, key, value))
    if them.keys is not None:
        key_THD, value_THD = key_THD[them.keys], value_THD[them.keys]
    # this many keys before the query's own
    before = sliding_window - 1 if sliding_window and sliding_window < them.longest_k else -1
    output_THD = varlen_attn(
        query_THD,
        key_THD,
        value_THD,
        them.ends_q,
        them.ends_k,
        them.longest_q,
        them.longest_k,
        scale=scaling,
        window_size=(before, 0),
        enable_gqa=True,
    )
    assert isinstance(output_THD, torch.Tensor)
    return output_THD[None]


def _by_segments(
    plan: _Plan,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    queries, keys, values = plan.pieces(query), plan.pieces(key), plan.pieces(value)
    outputs = []
    for number, segment in enumerate(plan.segments):
        window = sliding_window if sliding_window and sliding_window < segment.end else None
        plain = not segment.ancestors and window is None
        output_1HSD = _attend(
            queries[number],
            plan.seen(keys, number),
            plan.seen(values, number),
            None if plain and softcap is None else plan.mask(number, window),
            scaling,
            softcap,
        )
        outputs.append(output_1HSD.transpose(1, 2))
    return torch.cat(outputs, dim=1)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
) -> torch.Tensor:
    if softcap is None:
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
        )
    assert mask is not None, "soft-capped scores are masked by hand"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * scale / softcap)
    weights = scores.masked_fill(~mask, float("-inf")).float().softmax(dim=-1)
    return weights.to(value.dtype) @ value
