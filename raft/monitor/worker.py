"""What measures policies by their log-probabilities, in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raft.monitor.divergence import k3_sum
from raft.monitor.log_probs import Row, import_what_loads, log_probs
from rollout.engines.environment import quiet_libraries

__all__ = ["LogProbWorker", "Measured"]


@dataclass(frozen=True)
class Measured:
    """Of every sample log π, log π0 and k3, each summed over its tokens; perplexity of the texts.

    Empty, and None, where nothing was asked.
    """

    log_probs: list[float]
    start_log_probs: list[float]
    kl_k3: list[float]
    perplexity: float | None


class LogProbWorker:
    """Compares policies with the policy `start`. Holds no weights between calls."""

    def __init__(self, start: str, dtype: str = "auto") -> None:
        quiet_libraries()
        import_what_loads(start)
        self._start = start
        self._dtype = dtype

    def measure(self, policy: str, samples: Sequence[Row], texts: Sequence[Row]) -> Measured:
        """`samples` are what `policy` drew, `texts` what its perplexity is measured on."""
        now = log_probs(policy, [*samples, *texts], self._dtype)
        sampled, read = now[: len(samples)], now[len(samples) :]
        before = log_probs(self._start, samples, self._dtype) if samples else []
        return Measured(
            log_probs=[float(one.sum()) for one in sampled],
            start_log_probs=[float(one.sum()) for one in before],
            kl_k3=[k3_sum(one, other) for one, other in zip(sampled, before, strict=True)],
            perplexity=_perplexity(read) if texts else None,
        )


def _perplexity(log_probs_of_texts: Sequence[np.ndarray]) -> float:
    every_T = np.concatenate(log_probs_of_texts)
    return math.exp(-float(every_T.mean()))
