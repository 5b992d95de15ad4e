"""GRM's loss: Bradley–Terry on a value head, and text generation that regularises the states below.

Yang et al. 2024 (arXiv 2406.10216) and their code: L = (1−α)·L_reward + α·L_reg with α = 0.01.
Pure functions of rewards and log-probabilities, each giving one loss per pair (P,) whose mean is
the published one. ℓ(y) is the SUM of a response's token log-probabilities, so the regularisers
weigh a long response more than a short one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import logsigmoid

from rewards.training.losses import bradley_terry

__all__ = ["REGULARISERS", "Regulariser", "dpo", "grm_loss", "sft", "summed_log_probs"]

# "dpo_free" is DPO without a reference model
Regulariser = Literal["sft", "sft_no_logsigmoid", "dpo_free", "dpo"]
REGULARISERS: tuple[Regulariser, ...] = ("sft", "sft_no_logsigmoid", "dpo_free", "dpo")


def summed_log_probs(
    logits_NV: torch.Tensor, targets_N: torch.Tensor, row_N: torch.Tensor, rows: int
) -> torch.Tensor:
    """ℓ (B,) of B = `rows` responses, in float32.

    Args:
        logits_NV: at each of the N positions whose next token counts.
        targets_N: that next token.
        row_N: which response it belongs to.
    """
    token_N = -torch.nn.functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")
    return token_N.new_zeros(rows).index_add(0, row_N, token_N)


def sft(chosen_P: torch.Tensor, beta: float = 0.1, *, log_sigmoid: bool = True) -> torch.Tensor:
    """−log σ(β·ℓ(y_c)), or −ℓ(y_c) without the sigmoid (their `no_logsigmoid_sft`)."""
    return -logsigmoid(beta * chosen_P) if log_sigmoid else -chosen_P


def dpo(
    chosen_P: torch.Tensor,
    rejected_P: torch.Tensor,
    beta: float = 0.1,
    reference: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """−log σ(β·[ℓ(y_c) − ℓ(y_r) − (ℓ_ref(y_c) − ℓ_ref(y_r))]); no reference is one that is flat."""
    gain_P = chosen_P - rejected_P
    if reference is not None:
        gain_P = gain_P - (reference[0] - reference[1])
    return -logsigmoid(beta * gain_P)


def grm_loss(
    rewards: tuple[torch.Tensor, torch.Tensor],
    regularisation_P: torch.Tensor | None,
    alpha: float = 0.01,
) -> torch.Tensor:
    """(1−α)·BT + α·L_reg per pair; None, with α = 0, is Bradley–Terry on the value head."""
    reward_P = bradley_terry(*rewards)
    if regularisation_P is None:
        return reward_P
    return (1 - alpha) * reward_P + alpha * regularisation_P
