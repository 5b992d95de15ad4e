"""Lay rows of ids out for one forward pass that is differentiated: packed or padded.

*Packed* lays rows end to end without padding and computes what the two sides of a pair have in
common, the prompt, once (`rewards.inference.prefix_tree`); autograd adds up the gradients of that
part. *Padded* is the usual batch, padded on the right. Both give the same states and gradients.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from rewards.inference import packed_attention
from rewards.inference.backbone import needs_attention_mask
from rewards.inference.prefix_tree import Tree, grow
from rewards.training.settings import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LaidOut", "Layout", "choose_layout", "last_states", "lay_out", "num_embeddings"]

log = logging.getLogger("rewards")

# states of the two layouts may differ by rounding alone, up to this share of the largest state
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class LaidOut:
    """Rows laid out: `inputs` are keyword arguments of a transformers model.

    The batch is B rows, or one packed row with a `tree`.
    """

    inputs: dict[str, torch.Tensor]
    rows: list[np.ndarray]
    tree: Tree | None

    @property
    def width(self) -> int:
        """Return the length of the axis of tokens: of all packed rows, or of a padded row."""
        return self.inputs["input_ids"].shape[1]

    def column(self, row: int, position: int) -> int:
        """Return the place of token `position` of `row` on the axis of tokens."""
        return position if self.tree is None else self.tree.index(row, position)

    def flat(self, row: int, position: int) -> int:
        """Return the place of a token when the axes of rows and tokens are flattened into one."""
        return self.column(row, position) + (0 if self.tree is not None else row * self.width)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Hold the attention for these rows: forward passes on `inputs` belong inside."""
        if self.tree is None:
            yield
            return
        with packed_attention.attending(self.tree, self.inputs["input_ids"].device):
            yield


def lay_out(
    rows: Iterable[np.ndarray], layout: Layout, pad_id: int, device: torch.device
) -> LaidOut:
    """Lay out B rows of ids, each (T,) and none empty.

    `pad_id` is masked, so it may be any id of the model.
    """
    kept = list(rows)
    if layout == "packed":
        tree = grow([row.tolist() for row in kept])
        arrays = {"input_ids": tree.ids_T[None], "position_ids": tree.positions_T[None]}
    else:
        tree, width = None, max(map(len, kept))
        ids_BT = np.full((len(kept), width), pad_id, dtype=np.int64)
        mask_BT = np.zeros((len(kept), width), dtype=np.int64)
        for index, row in enumerate(kept):
            ids_BT[index, : len(row)] = row
            mask_BT[index, : len(row)] = 1
        arrays = {"input_ids": ids_BT, "attention_mask": mask_BT}
    inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return LaidOut(inputs, kept, tree)


def last_states(backbone: PreTrainedModel, laid: LaidOut) -> torch.Tensor:
    """Return the hidden states (B, H) of each row's own last token, in the model's dtype.

    transformers' classifiers take the right-most token that is no PAD instead: there a row that
    ends with EOS loses it when EOS pads.
    """
    with laid.running():
        hidden_BTH = backbone(**laid.inputs, use_cache=False).last_hidden_state
    places = [laid.flat(row, len(ids) - 1) for row, ids in enumerate(laid.rows)]
    return hidden_BTH.flatten(0, 1)[torch.tensor(places, device=hidden_BTH.device)]


def num_embeddings(model: PreTrainedModel) -> int:
    """Return the number of rows of the input embedding: token ids are below it."""
    return int(model.get_input_embeddings().get_parameter("weight").shape[0])


def choose_layout(
    model: PreTrainedModel,
    backbone: PreTrainedModel,
    *,
    pad_id: int,
    wanted: Layout | None,
    why_padded: str | None,
) -> Layout:
    """Return the layout, log it with its reason, and set the model's attention for it.

    `why_padded` is a reason against packing that is known beforehand (dropout). With `wanted` None
    rows are packed on a CPU, where padding costs as much as text, and on a GPU where attention is
    one call a layer: without that, many short kernels would take the place of a few long ones.
    """
    reason = why_padded
    if reason is None and wanted == "padded":
        reason = "it was asked for"
    if reason is None:
        own = backbone.config._attn_implementation or "eager"
        reason = _try_packed(model, backbone, pad_id)
        by_itself = wanted is None and torch.cuda.is_available()
        # a model to be sharded is still on the CPU, and is tried there
        if reason is None and by_itself and not packed_attention.took_one_call():
            model.set_attn_implementation(own)
            reason = "a GPU runs padded batches in fewer kernels"
    log.info("training on %s", "packed rows" if reason is None else f"padded rows: {reason}")
    return "packed" if reason is None else "padded"


def _try_packed(model: PreTrainedModel, backbone: PreTrainedModel, pad_id: int) -> str | None:
    """Return why rows cannot be packed; None where packed rows give the states of padded ones.

    With None the attention of packed rows stays set, else the model's own is set again.
    """
    if not getattr(backbone, "_supports_attention_backend", False):
        return f"{type(backbone).__name__} has an attention of its own"
    rows, was_training = _probe(num_embeddings(backbone)), model.training
    model.eval()
    own, parameter = backbone.config._attn_implementation or "eager", next(backbone.parameters())
    found: torch.Tensor | str
    with torch.no_grad():
        expected = last_states(backbone, lay_out(rows, "padded", pad_id, parameter.device)).float()
        packed_attention.register()
        model.set_attn_implementation(packed_attention.PACKED)
        try:
            found = last_states(backbone, lay_out(rows, "packed", pad_id, parameter.device)).float()
        except (RuntimeError, TypeError, ValueError) as error:
            found = " ".join(str(error).split())[:200]
    model.train(was_training)
    if isinstance(found, str):
        model.set_attn_implementation(own)
        return f"{type(backbone).__name__} cannot run packed ones ({found})"
    if (reason := needs_attention_mask(backbone.config)) is not None:
        model.set_attn_implementation(own)
        return reason
    apart = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not apart <= _TOLERANCE.get(parameter.dtype, 1e-4):
        model.set_attn_implementation(own)
        return f"packed ones gave states {apart:.1e} away"
    return None


def _probe(vocabulary: int) -> list[np.ndarray]:
    """Return rows of unequal length, two of which share a beginning."""
    draw = np.random.default_rng(0)
    first, second, third = (draw.integers(0, vocabulary, size=size) for size in (40, 23, 7))
    return [first, np.concatenate([first[:24], second]), third]
