"""Bradley–Terry reward models: a decoder with a linear head on the last token.

The last token is found by the attention mask. transformers' own `*ForSequenceClassification` takes
the right-most token that is not `config.pad_token_id`: with pad == eos it scores the token before
the closing one, and with another padding id it scores padding, both in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from rewards.batching import score_in_batches
from rewards.encoding import Encoder
from rewards.finite import check_policy, finite_or_missing
from rewards.formats import Scorable
from rewards.types import NonFinite, RewardError, Scores
from rollout.types import Group, conversation

__all__ = ["ClassifierReward"]


class ClassifierReward:
    """Scores conversations with a loaded sequence classifier: the raw logit, no sigmoid.

    Args:
        model: any decoder `*ForSequenceClassification` with a linear head `score` of one output.
        encoder: how conversations become token ids.
        name: for messages.
        pad_id: what short rows are filled with, on the right; masked, so its value is immaterial.
        batch_tokens: padded tokens per batch at most.
        non_finite: "raise", or "missing" to leave NaN and infinity out.
    """

    def __init__(
        self,
        model: Any,
        encoder: Encoder,
        *,
        name: str,
        pad_id: int = 0,
        batch_tokens: int = 16384,
        non_finite: NonFinite = "raise",
    ) -> None:
        check_policy(non_finite)
        self.model = model.eval()
        self.encoder = encoder
        self.name = name
        self.pad_id = pad_id
        self.batch_tokens = batch_tokens
        self.non_finite: NonFinite = non_finite
        self._backbone: nn.Module = getattr(model, model.base_model_prefix)
        self._head: nn.Linear = model.score

    def score(self, conversations: Sequence[Scorable]) -> np.ndarray:
        """N conversations, or plain texts, to float32 scores (N,), order kept.

        Raises `InputError` for a conversation that does not fit the format, `RewardError` for a
        score that is not finite; with `non_finite="missing"` that score is NaN.
        """
        names = [f"conversation {index}" for index in range(len(conversations))]
        return self._score(conversations, names)

    def score_groups(self, groups: Sequence[Group]) -> Scores:
        """One list of K scores per group, order kept. Raises as `score` does, naming the prompt."""
        samples = [(group.prompt, one) for group in groups for one in group.completions]
        names = [f"prompt {prompt.id!r}" for prompt, _ in samples]
        conversations = [conversation(prompt, one.text) for prompt, one in samples]
        flat = iter(self._score(conversations, names).tolist())
        return [[_or_none(next(flat)) for _ in group.completions] for group in groups]

    def to(self, device: str) -> None:
        """Move the model, for a GPU that is shared in turn."""
        self.model.to(device)

    def describe(self) -> dict[str, Any]:
        """The settings that a score depends on, for a run's records."""
        weight = self._head.weight
        return {
            "name": self.name,
            "kind": "classifier",
            "architecture": type(self.model).__name__,
            "format": self.encoder.format,
            "separator": self.encoder.separator,
            "bos": self.encoder.bos,
            "max_length": self.encoder.max_length,
            "truncation_side": self.encoder.truncation_side,
            "dtype": str(weight.dtype).removeprefix("torch."),
            "device": str(weight.device),
            "padding": "right",
            "pad_id": self.pad_id,
            "pooling": "last token of the attention mask",
        }

    def _score(self, conversations: Sequence[Scorable], names: Sequence[str]) -> np.ndarray:
        rows = self.encoder.encode(conversations, names)
        lengths = [len(row) for row in rows]
        scores_N = score_in_batches(
            lengths,
            self.batch_tokens,
            lambda batch: self._score_batch([rows[i] for i in batch], [names[i] for i in batch]),
            _is_out_of_memory,
        )
        self._check(scores_N, names)
        return np.where(np.isfinite(scores_N), scores_N, np.float32(np.nan))

    def _check(self, scores_N: np.ndarray, names: Sequence[str]) -> None:
        source = f"reward model {self.name}"
        for value, where in zip(scores_N.tolist(), names, strict=True):
            finite_or_missing(value, source=source, where=where, non_finite=self.non_finite)

    def _score_batch(self, rows: Sequence[Sequence[int]], names: Sequence[str]) -> np.ndarray:
        try:
            return self._forward(rows)
        except RuntimeError as error:
            if len(rows) > 1 or not _is_out_of_memory(error):
                raise
            raise RewardError(
                f"out of memory on {names[0]} alone ({len(rows[0])} tokens): "
                "use a smaller max_length or dtype"
            ) from error

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """B rows of ids to scores (B,). The head works in float32 whatever the model's dtype."""
        input_ids, attention_mask = self._padded(rows)
        hidden_BTH = self._backbone(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        last_B = attention_mask.sum(dim=1) - 1
        pooled_BH = hidden_BTH[torch.arange(len(rows), device=hidden_BTH.device), last_B].float()
        bias = None if self._head.bias is None else self._head.bias.float()
        logits_B1 = nn.functional.linear(pooled_BH, self._head.weight.float(), bias)
        return logits_B1[:, 0].cpu().numpy()

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (B, T), padded on the right."""
        shape = (len(rows), max(len(row) for row in rows))
        ids_BT = np.full(shape, self.pad_id, dtype=np.int64)
        mask_BT = np.zeros(shape, dtype=np.int64)
        for index, row in enumerate(rows):
            ids_BT[index, : len(row)] = row
            mask_BT[index, : len(row)] = 1
        device = self._head.weight.device
        return torch.from_numpy(ids_BT).to(device), torch.from_numpy(mask_BT).to(device)


def _is_out_of_memory(error: BaseException) -> bool:
    # the CPU allocator raises a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _or_none(score: float) -> float | None:
    return None if np.isnan(score) else score
