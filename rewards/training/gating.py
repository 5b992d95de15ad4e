"""Train ArmoRM's gate on preference pairs over frozen states, without files or models.

The second stage of Wang et al. 2024 (arXiv 2406.12845) minimises the mean over pairs of

    −log σ(s_c − s_r) with s = Σ_k G_k(q)·(W e·M)_k

where q is the state at the end of the prompt and (W e·M) are the adjusted rewards of a response.
Settings are those of the released script; two of its mistakes are corrected: rewards are adjusted
by M while training as they are when scoring, and the softmax runs over the attributes, not over the
two responses (which would leave the gate without a gradient).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from rewards.training.settings import GatingSettings
from rollout.types import InputError

__all__ = ["GatingMLP", "fit_gating", "gated_margins"]

Report = Callable[[int, float], None]


class GatingMLP(nn.Module):
    """The gate, from q (…, H) to weights G (…, K): softmax over attributes, times a learned scale.

    Its state dict has the names of the published checkpoint after `gating.`.
    """

    def __init__(self, inputs: int, outputs: int, settings: GatingSettings) -> None:
        super().__init__()
        sizes = [inputs, *[settings.hidden_dim] * settings.n_hidden, outputs]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.temperature = settings.temperature
        self.dropout = settings.dropout

    def forward(self, states_BH: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            states_BH = nn.functional.dropout(layer(states_BH).relu(), self.dropout, self.training)
        logits_BK = self.layers[-1](states_BH)
        return (logits_BK / self.temperature).softmax(dim=-1) * self.logit_scale


def gated_margins(
    gate: GatingMLP, prompts_BH: torch.Tensor, differences_BK: torch.Tensor
) -> torch.Tensor:
    """Return s_c − s_r (B,) of pairs, from chosen minus rejected adjusted rewards (B, K)."""
    return (gate(prompts_BH) * differences_BK).sum(dim=-1)


def fit_gating(
    prompts_PH: np.ndarray,
    differences_PK: np.ndarray,
    settings: GatingSettings,
    *,
    seed: int,
    device: str = "cpu",
    report: Report | None = None,
) -> GatingMLP:
    """Train a gate on P pairs and return it in evaluation mode.

    Args:
        prompts_PH: states at the end of the prompt, mapped from a file perhaps: a step reads the
            rows of its batch.
        differences_PK: adjusted rewards of chosen minus rejected; pairs with a NaN are skipped.
        report: called with the number of steps done and the loss.

    Raises `InputError` when there are no pairs, or training diverges.
    """
    usable = np.flatnonzero(~np.isnan(differences_PK).any(axis=1))
    if not len(usable):
        raise InputError(
            "pairs", f"of {len(prompts_PH)} pairs to train a gate on, none can be used"
        )
    draw = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[] if device == "cpu" else None):
        torch.manual_seed(seed)  # first weights and dropout
        gate = GatingMLP(prompts_PH.shape[1], differences_PK.shape[1], settings).to(device).train()
        optimizer = torch.optim.AdamW(gate.parameters(), settings.learning_rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
        for step in range(settings.steps):
            # drawn with replacement; sorted, so that the file is read from front to back
            rows = np.sort(draw.choice(usable, size=settings.batch_size))
            batch = (_tensor(array[rows], device) for array in (prompts_PH, differences_PK))
            loss = -nn.functional.logsigmoid(gated_margins(gate, *batch)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if report is not None:
                report(step + 1, float(loss.detach()))
    if not all(torch.isfinite(p).all() for p in gate.parameters()):
        raise InputError("gating.learning_rate", "the gate's training diverged", "lower it")
    return gate.eval()


def _tensor(array: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)
