"""torch's `varlen_attn` in plain torch, on any device and in any type: what its text promises."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
    num_splits: int | None = None,
) -> torch.Tensor:
    """(T_q, H, D) of the queries: each sequence sees its own keys alone, the last query the last
    key, and `window_size` keys before and behind that."""
    assert return_aux is seqused_k is block_table is num_splits is None
    assert cu_seq_k is not None
    _check(query, key, value)
    ends_q, ends_k = _ends(cu_seq_q, len(query), max_q), _ends(cu_seq_k, len(key), max_k)
    assert len(ends_q) == len(ends_k)
    repeats = query.shape[1] // key.shape[1]
    assert enable_gqa or repeats == 1
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    outputs: list[torch.Tensor] = []
    for (begin_q, end_q), (begin_k, end_k) in zip(pairwise(ends_q), pairwise(ends_k), strict=True):
        scores = torch.einsum("qhd,khd->hqk", query[begin_q:end_q], key[begin_k:end_k]) * factor
        last = torch.arange(end_q - begin_q)[:, None] + (end_k - begin_k) - (end_q - begin_q)
        at = torch.arange(end_k - begin_k)[None, :]
        left, right = (size if size >= 0 else end_k for size in window_size)
        seen = (at >= last - left) & (at <= last + right)
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights = wide.masked_fill(~seen.to(scores.device), -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights.to(value.dtype), value[begin_k:end_k]))
    return torch.cat(outputs)


def on_cpu(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Packed attention is one call a layer here too, in whatever type. The arguments of each call,
    as torch's own function would take them, are listed."""
    import inspect

    from torch.nn.attention import varlen

    from rewards.inference import packed_attention

    calls: list[dict[str, Any]] = []
    real = inspect.signature(varlen.varlen_attn)

    def noted(*given: Any, **named: Any) -> torch.Tensor:
        calls.append(real.bind(*given, **named).arguments)
        return varlen_attn(*given, **named)

    monkeypatch.setattr(varlen, "varlen_attn", noted)
    monkeypatch.setattr(
        packed_attention,
        "_kernel_dtype",
        lambda query, value, softcap: query.dtype if softcap is None else None,
    )
    return calls


def _check(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    """What FlashAttention refuses."""
    assert query.dtype == key.dtype == value.dtype
    assert key.shape == value.shape and query.shape[2] == key.shape[2]
    assert query.shape[1] % key.shape[1] == 0
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1


def _ends(cumulative: torch.Tensor, total: int, longest: int) -> list[int]:
    assert cumulative.dtype == torch.int32 and cumulative.is_contiguous()
    ends = cumulative.tolist()
    sizes = [b - a for a, b in pairwise(ends)]
    assert ends[0] == 0 and ends[-1] == total and min(sizes) > 0 and max(sizes) == longest
    return ends
