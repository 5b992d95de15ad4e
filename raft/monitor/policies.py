"""KL to the starting policy and perplexity of a reference text, measured at every evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raft.monitor.kl import divergence_metrics
from raft.monitor.log_probs import Row
from raft.monitor.worker import LogProbPool, Measured
from rollout.data.samples import SampleRow, read_samples
from rollout.storage.files import read_rows, whole_file

__all__ = ["PolicyMeasures"]

_FILE = "kl.jsonl"


@dataclass(frozen=True)
class PolicyMeasures:
    """What is measured of policies: their KL to `start` on samples drawn at `temperature` (None:
    no KL), and the perplexity of `texts` (none: no perplexity)."""

    start: str
    temperature: float | None = None
    texts: tuple[Row, ...] = ()

    @property
    def any(self) -> bool:
        return self.temperature is not None or bool(self.texts)

    def measure(self, home: Path, policy: str, pool: LogProbPool) -> dict[str, float]:
        """The metrics of `policy`, which drew `eval.jsonl` in the folder `home`. Writes `kl.jsonl`
        there; where that is whole already, its samples are not computed again."""
        found: dict[str, float] = {}
        path = home / _FILE
        rows: list[SampleRow] = []
        if self.temperature is not None and not path.exists():
            rows = list(read_samples(home / "eval.jsonl"))
        samples = [sample for row in rows for sample in self._samples(row)]
        if samples or self.texts:
            measured = pool.measure(policy, samples, self.texts)
            if measured.perplexity is not None:
                found["eval/perplexity"] = measured.perplexity
            if rows:
                _write(path, rows, measured)
        if self.temperature is not None:
            found |= divergence_metrics(read_rows(path))
        return found

    def measure_start(self, pool: LogProbPool) -> dict[str, float]:
        """The starting policy itself is at no distance."""
        found: dict[str, float] = {}
        if self.temperature is not None:
            found |= {"eval/kl_k1": 0.0, "eval/kl_k1_ci95": 0.0}
            found |= {"eval/kl_k3": 0.0, "eval/kl_k3_ci95": 0.0}
        if self.texts:
            perplexity = pool.measure(self.start, [], self.texts).perplexity
            assert perplexity is not None, "texts were given"
            found["eval/perplexity"] = perplexity
        return found

    def _samples(self, row: SampleRow) -> list[Row]:
        prompt = tuple(row.prompt_token_ids or ())
        temperature = self.temperature or 1.0
        return [Row((*prompt, *ids), len(prompt), temperature) for ids in row.token_ids]


def _write(path: Path, rows: Sequence[SampleRow], measured: Measured) -> None:
    """One row per prompt, in the order of `eval.jsonl`."""
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
