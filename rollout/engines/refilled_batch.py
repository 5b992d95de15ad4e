"""A batch of a causal language model whose rows come and go.

Rows are padded on the left, and all end in the last column of the cache, which is as wide as the
longest of them. A row that has ended leaves with its part of the cache; others join with theirs.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["RefilledBatch", "left_padded", "why_not_refilled"]


def why_not_refilled(model: Any) -> str | None:
    """Return why `RefilledBatch` cannot run the model, None if it can.

    The state of the model must be nothing but keys and values of single tokens.
    """
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return f"{type(model).__name__} takes no cache of keys and values"
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "attention_chunk_size", None):
        return "chunks of its attention begin at the same column for all rows"
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    if other := kinds - {DynamicLayer, DynamicSlidingWindowLayer}:
        return f"its cache has a {min(kind.__name__ for kind in other)}"
    return None


class RefilledBatch:
    """Rows in the order they joined. Columns of the cache are tokens that the model has seen.

    Args:
        pad_id: fills short rows; any id will do, since it is masked.
    """

    def __init__(self, model: Any, pad_id: int) -> None:
        self._model, self._pad_id = model, pad_id
        takes = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in takes
        self._only_last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._cache = self._new_cache()
        self._lengths_B = torch.zeros(0, dtype=torch.long, device=model.device)

    def join(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Add N rows of ids; return the logits (N, V) after the last id of each.

        Equal rows that follow each other are computed once.
        """
        which: list[int] = []
        single: list[Sequence[int]] = []
        for row in rows:
            if not single or row != single[-1]:
                single.append(row)
            which.append(len(single) - 1)
        device = self._lengths_B.device
        ids_NT, mask_NT = (one.to(device) for one in left_padded(single, self._pad_id))
        lengths_N, index_B = mask_NT.sum(1), torch.tensor(which, device=device)
        cache = self._new_cache()
        logits_NV = self._forward(ids_NT, lengths_N, cache)
        cache.batch_select_indices(index_B)
        if len(self._lengths_B):
            _append(self._cache, cache)
        else:
            self._cache = cache
        self._lengths_B = torch.cat([self._lengths_B, lengths_N[index_B]])
        return logits_NV[index_B]

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Add a token to each of B rows; return the logits (B, V) after it."""
        ids_B = torch.tensor(tokens, device=self._lengths_B.device)
        self._lengths_B = self._lengths_B + 1
        return self._forward(ids_B[:, None], self._lengths_B, self._cache)

    def keep(self, rows: Sequence[int]) -> None:
        """Remove all but these rows of the batch, and the columns that only removed rows used."""
        index_B = torch.tensor(rows, dtype=torch.long, device=self._lengths_B.device)
        self._lengths_B = self._lengths_B[index_B]
        if not rows:
            self._cache = self._new_cache()
            return
        self._cache.batch_select_indices(index_B)
        width = int(self._lengths_B.max())
        for layer in _filled(self._cache):
            layer.keys, layer.values = (x[:, :, -width:] for x in (layer.keys, layer.values))
            if isinstance(layer, DynamicSlidingWindowLayer):
                layer.cumulative_length = min(layer.cumulative_length, width)

    def _forward(
        self, ids_BT: torch.Tensor, lengths_B: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Return the logits (B, V) after `ids_BT`, the ends of rows of lengths `lengths_B`."""
        width = int(lengths_B.max())
        columns = torch.arange(width, device=lengths_B.device)
        positions_BW = columns - (width - lengths_B)[:, None]
        given: dict[str, Any] = {"attention_mask": (positions_BW >= 0).long(), **self._only_last}
        if self._takes_positions:
            given["position_ids"] = positions_BW[:, -ids_BT.shape[1] :].clamp(min=0)
        output = self._model(input_ids=ids_BT, past_key_values=cache, use_cache=True, **given)
        return output.logits[:, -1].float()

    def _new_cache(self) -> DynamicCache:
        return DynamicCache(config=self._model.config.get_text_config(decoder=True))


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids padded on the left, (B, T), and their attention mask, (B, T)."""
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def _filled(cache: DynamicCache) -> list[Any]:
    """Return the layers that hold keys and values; others share those of another layer."""
    layers: list[Any] = cache.layers
    return [layer for layer in layers if layer.is_initialized]


def _append(cache: DynamicCache, other: DynamicCache) -> None:
    """Append the rows of `other` to those of `cache`, in place; all end in the same column."""
    for mine, theirs in zip(_filled(cache), _filled(other), strict=True):
        width = max(mine.keys.shape[2], theirs.keys.shape[2])
        for name in ("keys", "values"):
            both = (getattr(layer, name) for layer in (mine, theirs))
            wide = [torch.nn.functional.pad(one, (0, 0, width - one.shape[2], 0)) for one in both]
            setattr(mine, name, torch.cat(wide))
        if isinstance(mine, DynamicSlidingWindowLayer):
            mine.cumulative_length = max(mine.cumulative_length, theirs.cumulative_length)
