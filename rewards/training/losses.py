"""Define training objectives: losses of rewards, and what runs a model to compute them.

`bradley_terry`, `centering`, `positive` and `pair_loss` take the rewards `chosen_P` and
`rejected_P` of P pairs, in float32, because in 16 bits the difference of two rewards of a few units
has only two correct digits. They return one loss per pair (P,) whose mean is the published loss, so
a mean can be taken over any number of batches.

An `Objective` is what the trainer minimises: `PairObjective` is Bradley–Terry on a classifier with
one output, `LanguageObjective` the cross-entropy of selected tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, logsigmoid

from rewards.training.examples import Example
from rewards.training.layout import LaidOut, last_states, lay_out
from rewards.training.settings import Layout, LossSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "LanguageObjective",
    "Objective",
    "Outcome",
    "PairObjective",
    "base_of",
    "bradley_terry",
    "centering",
    "judge_pairs",
    "logits_at",
    "pair_loss",
    "positive",
    "score_rows",
]


@dataclass(frozen=True)
class Outcome:
    """The result of an objective for a batch of P examples.

    Args:
        loss: the sum (not the mean) of what is minimised, a scalar in float32.
        values: numbers per example for the evaluation, (P,) each; not differentiated.
    """

    loss: torch.Tensor
    values: dict[str, torch.Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """A loss that is a sum over examples divided by the sum of their weights.

    Such a loss does not depend on how the examples of a step are cut into batches.
    """

    def weight(self, example: Example) -> float:
        """Return an example's part of the denominator: 1, or its number of tokens with a loss."""
        ...

    def run(self, model: nn.Module, examples: Sequence[Example]) -> Outcome:
        """Run one forward pass over `examples`; `model` may be wrapped by peft."""
        ...

    def judge(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Return the held-out examples' metrics from their `values`, (N,) on the CPU, in order."""
        ...


def bradley_terry(
    chosen_P: torch.Tensor,
    rejected_P: torch.Tensor,
    margin_P: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return −(1−ε) log σ(Δ − m) − ε log σ(−(Δ − m)) with Δ = chosen − rejected, per pair.

    ε = 0 and no margin is Bradley and Terry's likelihood; ε is the share of labels taken to be
    wrong (`labelsmooth` in GRM's reward_trainer.py), m by how much the chosen side should win.
    """
    delta_P = chosen_P.float() - rejected_P.float()
    if margin_P is not None:
        delta_P = delta_P - margin_P.float()
    kept = -logsigmoid(delta_P)
    if not label_smoothing:
        return kept
    return (1 - label_smoothing) * kept - label_smoothing * logsigmoid(-delta_P)


def centering(chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> torch.Tensor:
    """Return (chosen + rejected)², per pair, which draws rewards to mean zero.

    TRL's RewardTrainer has it, after Eisenstein et al. 2023, "Helping or herding?".
    """
    return (chosen_P.float() + rejected_P.float()) ** 2


def positive(chosen_P: torch.Tensor) -> torch.Tensor:
    """Return −log σ(chosen), per pair, which holds the chosen side above zero.

    This is `pos_reg` in GRM's code. GRM's script takes the mean reward of a device's micro-batch
    inside the logarithm, and runs with one pair per device, which gives the same. A mean over more
    pairs would depend on how batches are cut.
    """
    return -logsigmoid(chosen_P.float())


def pair_loss(
    chosen_P: torch.Tensor,
    rejected_P: torch.Tensor,
    *,
    margin_P: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    center: float = 0.0,
    positive_weight: float = 0.0,
) -> torch.Tensor:
    """Return Bradley–Terry plus the regularisers asked for, (P,)."""
    loss_P = bradley_terry(chosen_P, rejected_P, margin_P, label_smoothing)
    if center:
        loss_P = loss_P + center * centering(chosen_P, rejected_P)
    if positive_weight:
        loss_P = loss_P + positive_weight * positive(chosen_P)
    return loss_P


class PairObjective:
    """A `pair_loss` on P pairs: all sides in one forward pass, scored at their own last tokens."""

    def __init__(self, loss: LossSettings, layout: Layout, pad_id: int) -> None:
        self.loss = loss
        self.layout: Layout = layout
        self.pad_id = pad_id

    def weight(self, example: Example) -> float:
        return 1.0

    def run(self, model: nn.Module, examples: Sequence[Example]) -> Outcome:
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

    def _rewards(self, model: nn.Module, examples: Sequence[Example]) -> tuple[torch.Tensor, ...]:
        rows = [one.rows[side] for side in (0, 1) for one in examples]
        return score_rows(model, rows, self.layout, self.pad_id).chunk(2)


def score_rows(
    model: nn.Module, rows: Sequence[np.ndarray], layout: Layout, pad_id: int
) -> torch.Tensor:
    """Return the rewards (B,) of B rows of ids (T,), in float32 and differentiable.

    They are `model.score` at each row's own last token, as `rewards.models.classifier` computes
    them when the model is used.
    """
    base = base_of(model)
    laid = lay_out(rows, layout, pad_id, base.device)
    states_BH = last_states(getattr(base, base.base_model_prefix), laid)
    # the head is float32 even where the rest computes in 16 bits
    with torch.autocast(states_BH.device.type, enabled=False):
        return base.get_submodule("score")(states_BH.float())[:, 0]


def judge_pairs(chosen_N: torch.Tensor, rejected_N: torch.Tensor) -> dict[str, float]:
    """Return the share of pairs whose chosen side scores higher, the plain loss and mean rewards.

    A tie is lost.
    """
    return {
        "eval/accuracy": float((chosen_N > rejected_N).float().mean()),
        "eval/loss": float(bradley_terry(chosen_N, rejected_N).mean()),
        "eval/chosen_mean": float(chosen_N.mean()),
        "eval/rejected_mean": float(rejected_N.mean()),
    }


def base_of(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model itself, with adapters inside but without peft's wrapper."""
    return cast("PreTrainedModel", getattr(model, "get_base_model", lambda: model)())


class LanguageObjective:
    """The loss −log p of the tokens of each row from its `loss_from` on."""

    def __init__(self, layout: Layout, pad_id: int) -> None:
        self.layout: Layout = layout
        self.pad_id = pad_id

    def weight(self, example: Example) -> float:
        return float(sum(_predicted(example)))

    def run(self, model: nn.Module, examples: Sequence[Example]) -> Outcome:
        loss_N, owner_N, _ = self.token_losses(model, examples)
        sums_P = torch.zeros(len(examples), device=loss_N.device)
        sums_P = sums_P.index_add(0, owner_N, loss_N.detach())
        tokens_P = torch.tensor([self.weight(one) for one in examples])
        return Outcome(loss_N.sum(), {"nll": sums_P, "tokens": tokens_P})

    def judge(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        return {"eval/loss": float(values["nll"].sum() / values["tokens"].sum())}

    def token_losses(
        self, model: nn.Module, examples: Sequence[Example]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return three tensors on the N tokens with a loss, row after row, in order.

        They are the loss in float32 (N,), the number of the token's example (N,), and the logits
        (N, V) that predict the token.
        """
        laid = self.laid_out(model, examples)
        wanted, targets, owner = [], [], []
        rows = ((number, row, start) for number, one in enumerate(examples)
                for row, start in zip(one.rows, one.loss_from, strict=True))  # fmt: skip
        for place, (number, row, start) in enumerate(rows):
            # the first token of a row is predicted by nothing
            wanted += [(place, position - 1) for position in range(max(start, 1), len(row))]
            targets += row[max(start, 1) :].tolist()
            owner += [number] * (len(row) - max(start, 1))
        logits_NV = logits_at(base_of(model), laid, wanted)
        loss_N = cross_entropy(
            logits_NV.float(), torch.tensor(targets, device=logits_NV.device), reduction="none"
        )
        return loss_N, torch.tensor(owner, device=logits_NV.device), logits_NV

    def laid_out(self, model: nn.Module, examples: Sequence[Example]) -> LaidOut:
        rows = [row for one in examples for row in one.rows]
        return lay_out(rows, self.layout, self.pad_id, base_of(model).device)


def logits_at(
    model: PreTrainedModel, laid: LaidOut, wanted: Sequence[tuple[int, int]]
) -> torch.Tensor:
    """Return logits (N, V) at N places (row, position), with whatever the model applies at its end.

    Only the columns asked for go through the output embedding, which is most of the memory where
    vocabularies are large.
    """
    columns = sorted({laid.column(row, position) for row, position in wanted})
    number = {column: index for index, column in enumerate(columns)}
    keep: dict[str, torch.Tensor] = {}
    if "logits_to_keep" in signature(type(model).forward).parameters:
        keep["logits_to_keep"] = torch.tensor(columns, device=model.device)
    else:
        number = {column: column for column in columns}
    with laid.running():
        logits_BKV = model(**laid.inputs, use_cache=False, **keep).logits
    rows_N = [0 if laid.tree is not None else row for row, _ in wanted]
    columns_N = [number[laid.column(row, position)] for row, position in wanted]
    return logits_BKV[rows_N, columns_N]


def _predicted(example: Example) -> list[int]:
    return [
        len(row) - max(start, 1) for row, start in zip(example.rows, example.loss_from, strict=True)
    ]
