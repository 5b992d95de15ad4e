"""Tests of whether an engine holds the trainer's policy, by the log-probabilities of both.

In 16 bits the log-probabilities of an engine are never exactly the trainer's, and one update may
move them by less than this noise. So engines are compared with both policies, the one before the
update and the one after it, on responses that were trained on, whose log-probabilities move most.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rollout.engines.causal_lm import changed_weights, same_weights
from rollout.types import StaleWeightsError

__all__ = [
    "CheckResult",
    "EngineState",
    "Noise",
    "Probe",
    "check_changed",
    "log_probs_of",
    "unchanged",
]

log = logging.getLogger("raft")

# how far an engine may be from the trainer where noise is not known yet, nats per token on average
_EXACT, _16_BIT = 1e-3, 0.05
# once noise is known: so many times the noise, and no less than this share of the limit above
_TIMES_NOISE, _LEAST = 3.0, 0.1
# an engine is said to hold another policy when it is so many standard deviations beyond the middle
_SURE = 5.0
_MOST = 4.0  # standard deviations of the noise that one token counts at most
_NO_NOISE = 1e-9


class _Policy(Protocol):
    def log_probs(self, token_ids: Sequence[int]) -> list[float]: ...


def log_probs_of(policy: _Policy, rows: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Return an engine's or a trainer's log-probabilities (nats) of several texts, end to end."""
    return tuple(value for row in rows for value in policy.log_probs(row))


@dataclass(frozen=True)
class Noise:
    """|engine − trainer| for one policy, nats per token: on average, and root mean square."""

    mean: float
    rms: float


@dataclass(frozen=True)
class EngineState:
    """An engine's log-probabilities of a probe's rows, end to end, and the checksums of its tensors
    on each of its devices."""

    log_probs: tuple[float, ...]
    checksums: list[dict[str, int]]


@dataclass(frozen=True)
class CheckResult:
    """The result of comparing an engine with the trainer.

    `share` is how much of the update the engine shows: 1 all of it, 0 none, 2 twice (nearer to a
    half where the update is not larger than the noise); None where there is no update to compare.
    `sigmas` is how far the engine is beyond the middle between the old policy and the new one, in
    standard deviations of the noise; an engine that holds the old policy is as far on the other
    side. `fault` says why the engine does not hold the policy; None where it does.
    """

    noise: Noise
    share: float | None = None
    sigmas: float = 0.0
    fault: str | None = None

    def __str__(self) -> str:
        text = f"{self.noise.mean:.3g} nats per token apart"
        if self.share is None:
            return text
        return f"{text}, {self.share:.2f} of the update, {self.sigmas:+.3g} sigmas from the middle"


@dataclass(frozen=True)
class Probe:
    """Texts, and the trainer's log-probabilities of their tokens, end to end.

    Args:
        new: by the policy that engines must hold.
        old: by the policy before; None where there is none.
        noise: what is normal between this engine and this trainer; None where it is not known yet.
        exact: whether both compute in 32 bits or more.
    """

    rows: tuple[tuple[int, ...], ...]
    new: tuple[float, ...]
    old: tuple[float, ...] | None = None
    noise: Noise | None = None
    exact: bool = True

    @property
    def tolerance(self) -> float:
        """The largest mean |engine − trainer| that is no fault, nats per token."""
        limit = _EXACT if self.exact else _16_BIT
        if self.noise is None:
            return limit
        most = limit if self.exact else math.inf
        return min(most, max(limit * _LEAST, _TIMES_NOISE * self.noise.mean))

    def compare(self, found: Sequence[float]) -> CheckResult:
        """Return the verdict on an engine's log-probabilities (nats) of the probe's tokens.

        They are compared with those of the policy that the engine must hold, and with those of the
        policy before, which it holds if the update has not reached it.
        """
        if len(found) != len(self.new):
            problem = f"has {len(found)} log-probabilities for {len(self.new)} tokens"
            return CheckResult(Noise(math.nan, math.nan), fault=problem)
        engine_N, new_N = np.asarray(found), np.asarray(self.new)
        apart_N = engine_N - new_N
        noise = Noise(float(np.abs(apart_N).mean()), float(np.sqrt((apart_N**2).mean())))
        share, sigmas, too_far = self._of_update(engine_N, new_N)
        fault = None
        # written so that NaN fails too
        if not noise.mean <= self.tolerance:
            fault = (
                f"its log-probabilities differ from the trainer's by {noise.mean:.4g} nats on "
                f"average (tolerance {self.tolerance:.3g})"
            )
        elif share is not None and not max(-sigmas, too_far) <= _SURE:
            fault = (
                f"its log-probabilities show {share:.2f} of the last update, where 1 is all of it "
                f"({max(-sigmas, too_far):.3g} standard deviations of the noise from what could be)"
            )
        return CheckResult(noise, share, sigmas, fault)

    def _of_update(
        self, engine_N: NDArray[np.float64], new_N: NDArray[np.float64]
    ) -> tuple[float | None, float, float]:
        """Return the share of the update that the engine shows, and how far it is beyond the middle
        between old and new and beyond one and a half updates, in standard deviations of the noise.

        Without an update to compare: (None, 0, 0). The trainer's own noise is in the direction from
        old to new as well, but moves an engine neither to nor from the middle; where there is only
        noise, the first distance is near 0. No token counts more than `_MOST` standard deviations:
        unlikely tokens are far noisier than the others.
        """
        if self.old is None or self.noise is None:
            return None, 0.0, 0.0
        old_N = np.asarray(self.old)
        way_N, middle_N = new_N - old_N, (new_N + old_N) / 2
        squared = float(way_N @ way_N)
        if not squared > 0:
            return None, 0.0, 0.0
        # noise may grow with the policy: to one of the two, an engine without a fault is as near
        nearest = min(np.sqrt(((engine_N - one_N) ** 2).mean()) for one_N in (old_N, new_N))
        rms = max(self.noise.rms, float(nearest), _NO_NOISE)

        def bounded(apart_N: NDArray[np.float64]) -> NDArray[np.float64]:
            return apart_N.clip(-_MOST * rms, _MOST * rms)

        toward_N = bounded(way_N) / (rms * np.linalg.norm(bounded(way_N)))
        sigmas = float(bounded(engine_N - middle_N) @ toward_N)
        too_far = float(bounded(engine_N - middle_N - way_N) @ toward_N)
        return 0.5 + float((engine_N - middle_N) @ way_N) / squared, sigmas, too_far


def unchanged(before: Sequence[dict[str, int]], after: Sequence[dict[str, int]]) -> list[set[str]]:
    """Return, for each device, the names of the tensors whose checksums an update left the same."""
    return [
        {name for name in now if old.get(name) == now[name]}
        for old, now in zip(before, after, strict=False)
    ]


def check_changed(
    kept: Sequence[set[str]],
    checksums: Sequence[dict[str, int]],
    folders: tuple[str, str, str],
    version: int,
) -> None:
    """Check by checksum that the update has reached every device, and every tensor it changed.

    An update that is lost in rounding is only logged.

    Args:
        kept: `unchanged` of the update; `checksums` are those after it.
        folders: of the policy before the update and after it, and the engines' dtype.

    Raises:
        StaleWeightsError: all tensors of a device are as before, or a tensor that the update
            changed is as before on every device.
    """
    fault = None
    if any(len(names) == len(now) for names, now in zip(kept, checksums, strict=True)):
        if same_weights(*folders):
            log.warning(
                "policy version %d is the one before it in %s: updates are lost in rounding, "
                "so raise train.learning_rate",
                version,
                folders[2],
            )
            return
        fault = "the weights are"
    elif stale := changed_weights(*folders, set.intersection(*kept)):
        fault = f"{min(stale)} is"
    if fault is not None:
        raise StaleWeightsError(
            f"rollout workers do not hold policy version {version}: {fault} what they "
            "had before, by checksum"
        )
