"""The Bradley–Terry objective on a sequence classifier with one output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from rewards.training.example import Example
from rewards.training.layout import Layout, last_states, lay_out
from rewards.training.losses import bradley_terry, pair_loss
from rewards.training.objective import Outcome
from rewards.training.settings import LossSettings

__all__ = ["PairObjective", "base_of", "judge_pairs", "score_rows"]


class PairObjective:
    """Chosen and rejected sides of P pairs in one forward pass, scored at their own last tokens."""

    def __init__(self, loss: LossSettings, layout: Layout, pad_id: int) -> None:
        self.loss = loss
        self.layout: Layout = layout
        self.pad_id = pad_id

    def weight(self, example: Example) -> float:
        return 1.0

    def run(self, model: Any, examples: Sequence[Example]) -> Outcome:
        chosen_P, rejected_P = self._rewards(model, examples)
        settings, margin_P = self.loss, None
        if settings.margin:
            margins = [settings.margin * one.margin for one in examples]
            margin_P = torch.tensor(margins, device=chosen_P.device)
        loss_P = pair_loss(
            chosen_P,
            rejected_P,
            margin_P=margin_P,
            label_smoothing=settings.label_smoothing,
            center=settings.center,
            positive_weight=settings.positive_weight,
        )
        values = {"chosen": chosen_P.detach(), "rejected": rejected_P.detach()}
        return Outcome(loss_P.sum(), values)

    def judge(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        return judge_pairs(values["chosen"], values["rejected"])

    def _rewards(self, model: Any, examples: Sequence[Example]) -> tuple[torch.Tensor, ...]:
        rows = [one.rows[side] for side in (0, 1) for one in examples]
        return score_rows(model, rows, self.layout, self.pad_id).chunk(2)


def score_rows(model: Any, rows: Sequence[Any], layout: Layout, pad_id: int) -> torch.Tensor:
    """B rows of ids (T,) to rewards (B,) in float32, differentiable: `model.score` at each row's
    own last token, as `rewards.heads.scalar` does when the model is used."""
    model = base_of(model)
    laid = lay_out(rows, layout, pad_id, model.device)
    states_BH = last_states(getattr(model, model.base_model_prefix), laid)
    # the head is float32 even where the rest computes in 16 bits
    with torch.autocast(states_BH.device.type, enabled=False):
        return _score(model.score, states_BH.float())


def judge_pairs(chosen_N: torch.Tensor, rejected_N: torch.Tensor) -> dict[str, float]:
    """Share of pairs whose chosen side scores higher (a tie is lost), plain loss, mean rewards."""
    return {
        "eval/accuracy": float((chosen_N > rejected_N).float().mean()),
        "eval/loss": float(bradley_terry(chosen_N, rejected_N).mean()),
        "eval/chosen_mean": float(chosen_N.mean()),
        "eval/rejected_mean": float(rejected_N.mean()),
    }


def base_of(model: Any) -> Any:
    """The transformers model itself, with adapters inside but no wrapper of peft's around."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _score(head: nn.Module, states_BH: torch.Tensor) -> torch.Tensor:
    return head(states_BH)[:, 0]
