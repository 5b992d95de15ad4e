"""Attention over packed rows (`prefix_tree`), as an attention function of transformers.

Registered once under a name of our own; the tree of the running forward pass is handed over beside
the model, since not every architecture passes unknown arguments on to its attention.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import nn

from rewards.inference.prefix_tree import Tree

__all__ = ["PACKED", "attending", "register", "uses_sliding_window"]

PACKED = "raft_packed"
_running: ContextVar[_Plan | None] = ContextVar("packed_attention_plan", default=None)

_last_windows: ContextVar[frozenset[int | None]] = ContextVar("windows_heard", default=frozenset())


class _Plan:
    """A tree and the masks it needs; a mask serves every layer that has the same window."""

    def __init__(self, tree: Tree, device: torch.device) -> None:
        self.segments = tree.segments
        self._device = device
        self.windows: set[int | None] = set()
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}

    def pieces(self, states_1HTD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One piece per segment; segments lie end to end, in order.

        Split, not sliced: the gradient of a slice is a tensor of the whole packed length, so that
        S segments would cost S times the sequence in every backward pass.
        """
        return states_1HTD.split([segment.end - segment.start for segment in self.segments], dim=2)

    def seen(self, pieces: tuple[torch.Tensor, ...], number: int) -> torch.Tensor:
        """The keys or values that a segment sees: its ancestors' and its own."""
        ancestors = self.segments[number].ancestors
        if not ancestors:
            return pieces[number]
        return torch.cat([*(pieces[n] for n in ancestors), pieces[number]], dim=2)

    def mask(self, number: int, window: int | None) -> torch.Tensor:
        """True where a query of the segment sees a key (queries, keys)."""
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
    """Make the name known to transformers; doing it twice changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PACKED, _attention)
    # the tree says who sees whom
    AttentionMaskInterface.register(PACKED, lambda *arguments, **settings: None)


@contextlib.contextmanager
def attending(tree: Tree, device: torch.device) -> Iterator[None]:
    """Forward passes in this block attend along `tree`."""
    plan = _Plan(tree, device)
    token = _running.set(plan)
    try:
        yield
    finally:
        _running.reset(token)
        _last_windows.set(frozenset(plan.windows))


def uses_sliding_window() -> bool:
    """Whether a layer of the last forward pass here was told of a sliding window.

    Some architectures tell it by their mask alone, which packed attention never sees.
    """
    return any(window is not None for window in _last_windows.get())


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
    """(1, H, T, D) queries to (1, T, H, D) outputs: transformers' signature and order of axes."""
    plan = _running.get()
    if plan is None:
        raise RuntimeError("packed attention was called outside of a packed forward pass")
    plan.windows.add(sliding_window)
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
    return torch.cat(outputs, dim=1), None


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
