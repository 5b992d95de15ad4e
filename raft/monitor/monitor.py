"""The monitor of a run, which measures every evaluation, logs broken guards and may end the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from raft.monitor.diversity import diversity_metrics
from raft.monitor.guards import (
    Alarm,
    Stop,
    Stops,
    alarms,
    best_iteration,
    gold_agrees,
    idle_rules,
)
from raft.monitor.kl import LogProbWorkers, PolicyMeasures
from raft.monitor.log_probs import Row
from raft.monitor.ngrams import Jump, new_jumps, read_jumps, write_ngrams
from raft.resources import kl_temperature
from raft.runs.folder import RunFolder
from raft.runs.metrics import Metric, Numbers
from raft.runs.prompts import load_tokenizer
from rewards.checkpoints.hub import local_path
from rollout.data.prompts import read_prompts
from rollout.data.samples import read_samples
from rollout.engines.base import context_length
from rollout.text.templates import encode_prompts
from rollout.types import InputError

if TYPE_CHECKING:
    from raft.config.monitor import MonitorConfig
    from raft.config.run import RunConfig

__all__ = [
    "Monitor",
    "policy_measures",
]

log = logging.getLogger("raft")


_SPREADING = "ngram_jump"
_NAMED = 3  # n-grams in one sentence


class Monitor:
    """The monitor of the run in `folder`, whose starting policy is `start`.

    Its verdicts depend on the stored evaluations and `rules` alone, so that a run that was killed
    and continued gets the same ones as a run that was not.
    """

    def __init__(self, folder: RunFolder, rules: MonitorConfig, start: str) -> None:
        self._folder = folder
        self._rules = rules
        self._start = start
        self._stops = Stops(folder.root)

    def measure(
        self, iteration: int, policies: PolicyMeasures, workers: LogProbWorkers | None
    ) -> dict[str, Metric]:
        """Return the metrics of the policy of `iteration`, whose held-out samples are stored.

        `workers` may be None where `policies` measures nothing.
        """
        began = time.monotonic()
        texts = self._responses(iteration)
        found: dict[str, Metric] = {**diversity_metrics(texts)}
        if iteration > 0:
            found |= self._ngrams(iteration, texts)
        if policies.any:
            assert workers is not None, "policies are measured, so a worker was started"
            found |= self._of_policy(iteration, policies, workers)
        return {**found, "time/monitor": time.monotonic() - began}

    def check(self, iteration: int, metrics: Mapping[str, Metric] | None = None) -> str | None:
        """Store which guards the evaluation of `iteration` breaks, and log the new ones.

        `metrics` are those of the evaluation, where they are not stored yet. Return why the run
        ends here, or None where no guard ends it. An evaluation before the last is not judged
        again.
        """
        rows = self._folder.evaluations()
        if metrics is not None:
            rows.append(Numbers.of(iteration, metrics))
        if rows[-1].iteration != iteration:
            return None
        for alarm in idle_rules(self._rules, rows[0]) if iteration == 0 else ():
            log.warning("guard %s is off: %s", alarm.guard, alarm.message)
        jumps = self._jumps(rows)
        earlier = [one for end in range(len(rows)) for one in self._jumps(rows[:end])]
        news = new_jumps(jumps, earlier)
        known = {alarm.guard for alarm in alarms(self._rules, rows[:-1])}
        broken = alarms(self._rules, rows)
        if jumps:
            broken.append(_spreading(news or jumps))
            known |= set() if news else {broken[-1].guard}
        stops = [alarm for alarm in broken if alarm.guard in self._rules.stop_on]
        told = [alarm for alarm in broken if alarm in stops or alarm.guard not in known]
        self._stops.write_alarms(iteration, [(alarm, alarm in stops) for alarm in told])
        for alarm in told:
            if alarm not in stops[:1]:  # the caller logs why the run ends
                log.warning("iteration %d: guard %s: %s", iteration, alarm.guard, alarm.message)
        return self._stop(rows, stops[0]) if stops else None

    def standing_stop(self) -> str | None:
        """Return why the run was stopped, if its rules would still stop it; else forget the stop.

        None where it was not stopped, goes on, or will evaluate the iteration of the stop again.
        """
        stop = self._stops.read_stop()
        if stop is None:
            return None
        rows = [r for r in self._folder.evaluations() if r.iteration <= stop.iteration]
        if not rows or rows[-1].iteration < stop.iteration:
            return None  # killed before that evaluation was stored: it is judged anew
        broken = {alarm.guard for alarm in alarms(self._rules, rows)}
        broken |= {_SPREADING} if self._jumps(rows) else set()
        if stop.guard in broken.intersection(self._rules.stop_on):
            return self._line(stop)
        log.info("monitor: %s no longer stops this run; going on", stop.guard)
        self._stops.forget_stop()
        return None

    def is_over(self, iterations: int) -> bool:
        """Return whether the run is stopped or finished, and log that, or where it goes on.

        Raises InputError as `check_idle` does.
        """
        self.check_idle()
        if stopped := self.standing_stop():
            log.warning(stopped)
            return True
        done, finished = self._folder.latest_version(), self._folder.finished(iterations)
        if finished:
            log.info("%s is finished: %d iterations", self._folder.root, max(done, iterations))
        elif self._folder.metrics():
            log.info("going on after iteration %d of %d", done, iterations)
        return finished

    def check_idle(self) -> None:
        """Check that the last `idle_patience` iterations did not all learn nothing.

        Raises InputError where they did.
        """
        patience = self._rules.idle_patience
        rows = [row for row in self._folder.metrics() if row["phase"] == "train"]
        if patience is None or len(rows) < patience:
            return
        if any(row.get("select/kept") != 0 for row in rows[-patience:]):
            return
        of = "select/refused_"
        refused = [f"{key.removeprefix(of)} {n}" for key, n in rows[-1].items()
                   if key.startswith(of) and n]  # fmt: skip
        raise InputError(
            "select",
            f"nothing was learned in {patience} iterations in a row (unselectable in the last: "
            f"{', '.join(refused) or 'none'})",
            "loosen the filters, lower the threshold, or look at the scores (equal ones tell "
            "nothing to an update that compares them); monitor.idle_patience waits longer",
        )

    def best_iteration(self) -> int:
        """Return the best iteration so far, as `guards.best_iteration` does; 0 without any."""
        rows = self._folder.evaluations()
        return best_iteration(rows) if rows else 0

    def _stop(self, rows: Sequence[Numbers], alarm: Alarm) -> str:
        best = best_iteration(rows)
        kept = self._folder.policy(best)
        checkpoint = str(kept.relative_to(self._folder.root)) if kept else self._start
        stop = Stop(rows[-1].iteration, alarm.guard, alarm.message, best, checkpoint)
        self._stops.write_stop(stop)
        return self._line(stop)

    def _line(self, stop: Stop) -> str:
        best = stop.best_iteration
        where = self._folder.root / stop.checkpoint if best else stop.checkpoint
        return (
            f"stopped after iteration {stop.iteration} by monitor.{stop.guard}: "
            f"{stop.message}; the best policy is iteration {best}'s, {where} "
            "(monitor.stop_on=[] goes on)"
        )

    def _ngrams(self, iteration: int, texts: Sequence[str]) -> dict[str, Metric]:
        last = max(r.iteration for r in self._folder.evaluations() if r.iteration < iteration)
        previous = (last, self._responses(last)) if last else None
        home = self._folder.iteration(iteration)
        found = write_ngrams(home, texts, self._responses(0), previous)
        # without a slash, since it is not a number and must not be plotted
        return {"ngram_jumps": [message for message, _ in found[:_NAMED]]} if found else {}

    def _of_policy(
        self, iteration: int, policies: PolicyMeasures, workers: LogProbWorkers
    ) -> dict[str, float]:
        if iteration == 0:
            return policies.measure_start(workers)
        policy = str(self._folder.policy(iteration) or self._start)
        return policies.measure(self._folder.iteration(iteration), policy, workers)

    def _jumps(self, rows: Sequence[Numbers]) -> list[Jump]:
        """Return the n-grams that jumped at the last of `rows`.

        [] where the rule is off, or the gold reward agrees with the reward.
        """
        if not (rows and self._rules.ngram_jump) or gold_agrees(rows):
            return []
        return read_jumps(self._folder.iteration(rows[-1].iteration))

    def _responses(self, iteration: int) -> list[str]:
        rows = read_samples(self._folder.iteration(iteration) / "eval.jsonl")
        return [text for row in rows for text in row.responses]


def _spreading(jumps: Sequence[Jump]) -> Alarm:
    more = f" (and {len(jumps) - _NAMED} more)" if len(jumps) > _NAMED else ""
    return Alarm(_SPREADING, "; ".join(message for message, _ in jumps[:_NAMED]) + more)


_DOCUMENTS = 64
_TOKENS = 1024  # of each document, at most
_NO_LIMIT = 2**31


def policy_measures(config: RunConfig) -> PolicyMeasures:
    """Return the measures of a run's policies. Raises InputError for an unusable reference text."""
    start = local_path(config.policy.model)
    return PolicyMeasures(start, kl_temperature(config), _reference(config))


def _reference(config: RunConfig) -> tuple[Row, ...]:
    """Return the encoded beginnings of the first 64 documents of `monitor.reference_text`, or ().

    Raises:
        InputError: there is no such file, or it has no document of two tokens.
    """
    path = config.monitor.reference_text
    if path is None:
        return ()
    model = local_path(config.policy.model)
    longest = min(_TOKENS, context_length(model))
    try:
        documents = encode_prompts(
            read_prompts(path, separator=config.prompts.separator, limit=_DOCUMENTS),
            load_tokenizer(model),
            template="plain",
            max_model_len=_NO_LIMIT,
            max_new_tokens=0,
        )
    except InputError as error:
        raise InputError("monitor.reference_text", error) from error
    rows = tuple(Row(one.token_ids[:longest]) for one in documents if len(one.token_ids) > 1)
    if not rows:
        raise InputError(
            "monitor.reference_text",
            f"{path} has no document of two tokens",
            "give more text",
        )
    return rows
