"""The KL divergence of a policy from the starting one, and its perplexity of a reference text.

Schulman 2020 ("Approximating KL divergence", joschu.net/blog/kl-approx.html): with x drawn from the
policy π and d = log π(x) − log π0(x), both k1 = d and k3 = exp(−d) − 1 + d have the expectation
KL(π || π0). Both are in nats per response here; for whole responses:

- k1 is the sum of d over a response's tokens;
- k3 is computed for each token and summed. For each token it is unbiased given the tokens before,
  and so is the sum, by the chain rule. Computed for the whole response it would have the same
  expectation, but due to rare samples of huge exp(−d) alone: for all others it is near k1 − 1.

k3 is never negative, and varies less while the policies are near. From about a tenth of a nat per
token on it varies more than k1, because of the few tokens that are less likely by π than by π0. So
limits are on k1. Both need samples that are drawn from π as it is evaluated: at its temperature,
with no token excluded by top-p or top-k.

The log-probabilities are computed by a worker in a process of its own (`LogProbWorker`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from raft.monitor.log_probs import Row, import_what_loads, log_probs
from raft.workers.executors import Executor, Resources, Worker
from raft.workers.group import WorkerGroup
from rewards.evaluation.stats import clustered_mean_ci95
from rollout.data.samples import SampleRow, read_samples
from rollout.engines.environment import quiet_libraries
from rollout.storage.files import read_rows, whole_file
from rollout.types import WorkerDiedError

__all__ = [
    "LogProbWorker",
    "LogProbWorkers",
    "Measured",
    "PolicyMeasures",
    "divergence_metrics",
    "k3_sum",
]

_FILE = "kl.jsonl"


def k3_sum(log_p_T: np.ndarray, start_log_p_T: np.ndarray) -> float:
    """Return Σ exp(−d) − 1 + d over the T tokens of one response, in nats."""
    d_T = log_p_T - start_log_p_T
    return float(np.sum(np.expm1(-d_T) + d_T))


def divergence_metrics(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return `eval/kl_k1` and `eval/kl_k3` in nats per response, with half widths of 95 % intervals
    over prompts, from rows of `log_probs`, `start_log_probs` and `kl_k3` of K responses each.

    Values that are not finite are skipped.
    """
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


@dataclass(frozen=True)
class Measured:
    """log π, log π0 and k3 of every sample, each summed over its tokens; perplexity of the texts.

    The lists are empty without samples, and the perplexity is None without texts.
    """

    log_probs: list[float]
    start_log_probs: list[float]
    kl_k3: list[float]
    perplexity: float | None


class LogProbWorker:
    """A worker that compares policies with the policy `start`; it has no weights between calls."""

    def __init__(self, start: str, dtype: str = "auto") -> None:
        quiet_libraries()
        import_what_loads(start)
        self._start = start
        self._dtype = dtype

    def measure(self, policy: str, samples: Sequence[Row], texts: Sequence[Row]) -> Measured:
        """Return the KL terms of `samples`, which `policy` drew, and its perplexity of `texts`."""
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


class Sleeper(Protocol):
    """A worker group that leaves its GPU for as long as policies are measured there."""

    def sleep(self) -> None: ...

    def wake(self) -> None: ...


class LogProbWorkers(WorkerGroup[LogProbWorker]):
    """The one worker that compares policies with `start`; `neighbours` sleep while it works."""

    kind = "monitor"

    def __init__(
        self,
        executor: Executor,
        resources: Resources,
        start: str,
        dtype: str = "auto",
        neighbours: Sequence[Sleeper] = (),
        max_respawns: int = 3,
        after: Worker[object] | None = None,
        stall_timeout: float | None = None,
    ) -> None:
        self._build = partial(LogProbWorker, start, dtype)
        self._neighbours = neighbours
        super().__init__(executor, [resources], max_respawns, after, stall_timeout)

    def measure(self, policy: str, samples: Sequence[Row], texts: Sequence[Row]) -> Measured:
        """Run `LogProbWorker.measure` while the neighbours sleep; a worker that dies is replaced.

        Raises WorkerDiedError where `max_respawns` are not enough.
        """
        self.begin_stage()
        for neighbour in self._neighbours:
            neighbour.sleep()
        while True:
            try:
                call = self._workers[0].call(LogProbWorker.measure, policy, samples, texts)
                self._watch.begin(0, "measuring the policy")
                self._watch.first({call: 0})
                measured = call.result()
            except WorkerDiedError as error:
                self._replace(0, error)
            else:
                break
        for neighbour in self._neighbours:
            neighbour.wake()
        return measured

    def _factory(self) -> Callable[[], LogProbWorker]:
        return self._build


@dataclass(frozen=True)
class PolicyMeasures:
    """The measures of policies: the KL to `start` of samples drawn at `temperature` (None: no KL),
    and the perplexity of `texts` (empty: no perplexity)."""

    start: str
    temperature: float | None = None
    texts: tuple[Row, ...] = ()

    @property
    def any(self) -> bool:
        return self.temperature is not None or bool(self.texts)

    def measure(self, home: Path, policy: str, workers: LogProbWorkers) -> dict[str, float]:
        """Return the metrics of `policy`, which drew `eval.jsonl` in the folder `home`.

        `kl.jsonl` is written there; where it exists, its samples are not computed again.
        """
        found: dict[str, float] = {}
        path = home / _FILE
        rows: list[SampleRow] = []
        if self.temperature is not None and not path.exists():
            rows = list(read_samples(home / "eval.jsonl"))
        samples = [sample for row in rows for sample in self._samples(row)]
        if samples or self.texts:
            measured = workers.measure(policy, samples, self.texts)
            if measured.perplexity is not None:
                found["eval/perplexity"] = measured.perplexity
            if rows:
                _write(path, rows, measured)
        if self.temperature is not None:
            found |= divergence_metrics(read_rows(path))
        return found

    def measure_start(self, workers: LogProbWorkers) -> dict[str, float]:
        """Return the metrics of the starting policy: a KL of 0, and the perplexity it has."""
        found: dict[str, float] = {}
        if self.temperature is not None:
            found |= {"eval/kl_k1": 0.0, "eval/kl_k1_ci95": 0.0}
            found |= {"eval/kl_k3": 0.0, "eval/kl_k3_ci95": 0.0}
        if self.texts:
            perplexity = workers.measure(self.start, [], self.texts).perplexity
            assert perplexity is not None, "texts were given"
            found["eval/perplexity"] = perplexity
        return found

    def _samples(self, row: SampleRow) -> list[Row]:
        prompt = tuple(row.prompt_token_ids or ())
        temperature = self.temperature or 1.0
        return [Row((*prompt, *ids), len(prompt), temperature) for ids in row.token_ids]


def _write(path: Path, rows: Sequence[SampleRow], measured: Measured) -> None:
    """Write one row per prompt, in the order of `eval.jsonl`."""
    at = 0
    with whole_file(path) as file:
        for row in rows:
            own = slice(at, at + len(row.token_ids))
            at = own.stop
            values = {
                "id": row.id,
                "log_probs": measured.log_probs[own],
                "start_log_probs": measured.start_log_probs[own],
                "kl_k3": measured.kl_k3[own],
            }
            file.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
