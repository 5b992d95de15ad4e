"""The transformer of a reward model: rows of token ids in, hidden states at given positions out.

Two layouts give the same states. *Packed* lays the rows end to end without padding and computes
shared beginnings once (`rewards.inference.prefix_tree`). *Padded* is the usual batch, for
architectures with an attention of their own (GPT-Neo, say). Packed is checked against padded before
it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from rewards.inference import packed_attention
from rewards.inference.batching import Fitting, packed_fitting, padded_fitting
from rewards.inference.onednn import use_onednn
from rewards.inference.prefix_tree import grow, new_tokens, reading_order
from rollout.text.printable import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["Backbone", "Layout", "needs_attention_mask"]

log = logging.getLogger("rewards")

Ids = Sequence[int]
Layout = Literal["packed", "padded"]
# largest difference between layouts by rounding alone, as a share of the largest state, per dtype
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class Backbone:
    """A decoder without its head.

    Args:
        model: what returns `last_hidden_state`, after the final norm.
        pad_id: fills short rows of padded batches on the right; masked, so immaterial.
        name: for messages.
    """

    def __init__(self, model: Any, *, pad_id: int = 0, name: str = "reward model") -> None:
        self.model = model.eval()
        use_onednn(self.model)
        self.pad_id = pad_id
        self.layout: Layout = "padded"
        # rotary embeddings that change with the longest row of a batch, for all its rows
        self._alone = _rotation(self.model.config) in ("dynamic", "longrope")
        reason = self._why_not_packed()
        if reason is None:
            self.layout = "packed"
        how = ", attention in one call a layer" if packed_attention.took_one_call() else ""
        log.info("%s: %s rows%s", name, self.layout, f", because {reason}" if reason else how)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def plan(self, rows: Sequence[Ids]) -> tuple[list[int], Fitting]:
        """Return the order to compute rows in, and the `Fitting` that cuts it into batches."""
        if self._alone:
            return list(range(len(rows))), lambda start, budget: 1
        if self.layout == "packed":
            order = reading_order(rows)
            lengths = [len(rows[index]) for index in order]
            return order, packed_fitting(lengths, new_tokens(rows, order))
        # the longest go first, so that memory runs out in the first batch or never
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        return order, padded_fitting([len(rows[index]) for index in order])

    @torch.inference_mode()
    def states(self, rows: Sequence[Ids], positions: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the hidden states (B, Q, H), float32, of B rows at Q positions of each."""
        if self.layout == "packed":
            return self._packed(rows, positions)
        return self._padded(rows, positions)

    def _packed(self, rows: Sequence[Ids], positions: Sequence[Sequence[int]]) -> torch.Tensor:
        tree = grow(rows)
        ids_1T, positions_1T = (
            torch.from_numpy(array)[None].to(self.device)
            for array in (tree.ids_T, tree.positions_T)
        )
        with packed_attention.attending(tree, self.device):
            hidden_TH = self.model(
                input_ids=ids_1T, position_ids=positions_1T, use_cache=False
            ).last_hidden_state[0]
        index_BQ = [[tree.index(row, p) for p in wanted] for row, wanted in enumerate(positions)]
        return hidden_TH[torch.tensor(index_BQ, device=hidden_TH.device)].float()

    def _batch(self, rows: Sequence[Ids]) -> dict[str, torch.Tensor]:
        """Return ids and attention mask (B, T), padded on the right."""
        shape = (len(rows), max(len(row) for row in rows))
        ids_BT = np.full(shape, self.pad_id, dtype=np.int64)
        mask_BT = np.zeros(shape, dtype=np.int64)
        for index, row in enumerate(rows):
            ids_BT[index, : len(row)] = row
            mask_BT[index, : len(row)] = 1
        arrays = {"input_ids": ids_BT, "attention_mask": mask_BT}
        return {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}

    def _padded(self, rows: Sequence[Ids], positions: Sequence[Sequence[int]]) -> torch.Tensor:
        hidden_BTH = self.model(**self._batch(rows), use_cache=False).last_hidden_state
        index_BQ = torch.tensor([list(wanted) for wanted in positions], device=hidden_BTH.device)
        return hidden_BTH[
            torch.arange(len(rows), device=hidden_BTH.device)[:, None], index_BQ
        ].float()

    def _why_not_packed(self) -> str | None:
        """Return why rows cannot be packed; None where packed rows give the states of padded ones.

        In that case the model is left with packed attention.
        """
        if not getattr(self.model, "_supports_attention_backend", False):
            return f"{type(self.model).__name__} has an attention of its own"
        if self._alone:
            return "rotary embeddings that depend on the batch take one row at a time"
        rows, positions = _probe(self.model.get_input_embeddings().num_embeddings)
        with torch.inference_mode():
            expected = self._padded(rows, positions)
            own = self.model.config._attn_implementation
            packed_attention.register()
            self.model.set_attn_implementation(packed_attention.PACKED)
            try:
                found = self._packed(rows, positions)
            except (RuntimeError, TypeError, ValueError) as error:
                self.model.set_attn_implementation(own)
                return f"{type(self.model).__name__} cannot run them ({one_line(error, 200)})"
        if (reason := needs_attention_mask(self.model.config)) is not None:
            self.model.set_attn_implementation(own)
            return reason
        apart = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
        if not apart <= _TOLERANCE.get(self.dtype, 1e-4):
            self.model.set_attn_implementation(own)
            return f"packed rows gave states {apart:.1e} away from padded ones"
        return None


def needs_attention_mask(config: PreTrainedConfig) -> str | None:
    """Return why packed rows lack a part of the model's attention, or None where they do not.

    To be called after a packed forward pass. The rows that packing is tried on are shorter than a
    sliding window or chunk, so that their states cannot show it.
    """
    text = config.get_text_config()
    if getattr(text, "attention_chunk_size", None):
        return "attention in chunks is told by a mask"
    window = getattr(text, "sliding_window", None)
    if window and not packed_attention.uses_sliding_window():
        return f"a window of {window} tokens is told by a mask"
    return None


def _rotation(config: PreTrainedConfig) -> str | None:
    settings = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return settings.get("rope_type")


def _probe(vocabulary: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return rows of unequal length, two of which share a beginning, and positions to compare.

    The positions are those of each row's middle and last token.
    """
    draw = np.random.default_rng(0)
    first, second, third = (
        draw.integers(0, vocabulary, size=size).tolist() for size in (40, 23, 7)
    )
    rows = [first, first[:24] + second, third]
    return rows, [[len(row) // 2, len(row) - 1] for row in rows]
