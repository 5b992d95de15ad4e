"""Losses on preference pairs, as pure functions of rewards. Knows nothing of models.

`chosen_P` and `rejected_P` are the rewards of P pairs. They are taken to float32 first: in 16 bits
the difference of two rewards of a few units keeps two digits. Each function gives a loss per pair,
(P,), whose mean is the published one; so a mean can be taken over any number of batches.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

__all__ = ["bradley_terry", "centering", "pair_loss", "positive"]


def bradley_terry(
    chosen_P: torch.Tensor,
    rejected_P: torch.Tensor,
    margin_P: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """−(1−ε) log σ(Δ − m) − ε log σ(−(Δ − m)) with Δ = chosen − rejected, per pair.

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
    """(chosen + rejected)², per pair: draws rewards to mean zero (TRL's RewardTrainer, after
    Eisenstein et al. 2023, "Helping or herding?")."""
    return (chosen_P.float() + rejected_P.float()) ** 2


def positive(chosen_P: torch.Tensor) -> torch.Tensor:
    """−log σ(chosen), per pair: holds the chosen side above zero (`pos_reg` in GRM's code).

    GRM's script takes the mean reward of a device's micro-batch inside the logarithm, and runs with
    one pair per device: this is that. A mean over more would depend on how batches are cut.
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
    """Bradley–Terry and the regularisers asked for, (P,)."""
    loss_P = bradley_terry(chosen_P, rejected_P, margin_P, label_smoothing)
    if center:
        loss_P = loss_P + center * centering(chosen_P, rejected_P)
    if positive_weight:
        loss_P = loss_P + positive_weight * positive(chosen_P)
    return loss_P
