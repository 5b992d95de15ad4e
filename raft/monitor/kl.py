"""How far a policy is from the one it began as, estimated on its own samples.

Schulman 2020 ("Approximating KL divergence", joschu.net/blog/kl-approx.html): with x drawn from the
policy π and d = log π(x) − log π0(x), both k1 = d and k3 = exp(−d) − 1 + d have the expectation
KL(π || π0). Both are in nats per response here; for whole responses:

- k1 is the sum of d over a response's tokens;
- k3 is taken token by token and summed. Of each token it is unbiased given those before it, and so
  the sum is, by the chain rule. Taken of the whole response it would have that expectation too, but
  from rare samples of huge exp(−d) alone: all others would say k1 − 1.

k3 is never negative, and varies less while the policies are near; from about a tenth of a nat per
token on, the few tokens that π takes to be unlikelier than π0 did make it the wider of the two. So
limits go by k1. Both need samples that are drawn from π as it is evaluated:
at its temperature, with no token cut off by top-p or top-k.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from rewards.evaluation.stats import clustered_mean_ci95

__all__ = ["divergence_metrics", "k3_sum"]


def k3_sum(log_p_T: np.ndarray, start_log_p_T: np.ndarray) -> float:
    """Σ exp(−d) − 1 + d over the T tokens of one response."""
    d_T = log_p_T - start_log_p_T
    return float(np.sum(np.expm1(-d_T) + d_T))


def divergence_metrics(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """`eval/kl_k1` and `eval/kl_k3` in nats per response, with half widths of 95 % intervals over
    prompts, from rows of `log_probs`, `start_log_probs` and `kl_k3` of K responses each."""
    k1: list[list[float]] = []
    k3: list[list[float]] = []
    for row in rows:
        pairs = zip(row["log_probs"], row["start_log_probs"], strict=True)
        k1.append([now - start for now, start in pairs])
        k3.append(row["kl_k3"])
    found: dict[str, float] = {}
    for name, values_PK in (("eval/kl_k1", k1), ("eval/kl_k3", k3)):
        found[name], found[f"{name}_ci95"] = clustered_mean_ci95(values_PK)
    return {key: value for key, value in found.items() if math.isfinite(value)}
