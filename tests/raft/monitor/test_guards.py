"""Guards as rules over evaluations; the seat of the worker and its replacement; configs refused."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_runs
from wording import says

from raft.config.monitor import MonitorConfig
from raft.monitor.guards import alarms, best_iteration, gold_agrees, idle_rules
from raft.monitor.kl import LogProbWorker, LogProbWorkers
from raft.runs.metrics import Numbers
from raft.workers.inline_executor import InlineExecutor
from raft.workers.placement import place, place_monitor
from rewards.evaluation.stats import clustered_mean_ci95
from rollout.types import InputError, WorkerDiedError

OFF = {
    "gold_patience": None,
    "ngram_jump": False,
    "max_duplicate_share": None,
    "min_distinct_2": None,
    "max_length_growth": None,
    "max_perplexity_growth": None,
}


def rules_of(**limits: Any) -> MonitorConfig:
    """These guards alone."""
    return MonitorConfig(**{**OFF, **limits})


def evaluations(**columns: list[float]) -> list[Numbers]:
    """Rows of metrics: `gold_mean=[1, 2]` is `eval/gold_mean` of iterations 0 and 1."""
    count = len(next(iter(columns.values())))
    return [
        Numbers(at, {f"eval/{key}": values[at] for key, values in columns.items()})
        for at in range(count)
    ]


def golds(means: list[float], half: float = 0.1) -> list[Numbers]:
    return evaluations(gold_mean=means, gold_ci95=[half] * len(means))


def broken(rows: list[Numbers], **limits: Any) -> list[str]:
    return [alarm.guard for alarm in alarms(rules_of(**limits), rows)]


@pytest.mark.parametrize(
    ("means", "fires"),
    [
        ([0, 1, 2, 3, 4], False),
        ([0, 1, 2, 1.5, 1.4], True),  # past its peak for two evaluations
        ([0, 1, 2, 1.4], False),  # for one
        ([0, 1, 2, 1.4, 1.95], False),  # back within the interval
        ([0, 1, 2, 1.9, 1.9], False),  # within the interval all along
        ([0, 1, 2, 1.4, 2.5], False),
        ([2, 1, 1], True),  # the start is a peak too
        ([0, 1, 2, 1.4, 2.1, 1.4], False),  # a new peak begins a new count
    ],
)
def test_gold_past_its_peak(means: list[float], fires: bool) -> None:
    assert (broken(golds(means), gold_patience=2) == ["gold_patience"]) is fires


@pytest.mark.slow
def test_gold_that_only_varies_is_not_past_its_peak() -> None:
    # 64 prompts of unequal difficulty, a flat curve of 20 evaluations, 200 runs
    rng = np.random.default_rng(0)
    alarmed = 0
    for _ in range(200):
        difficulty_P = rng.normal(size=(64, 1))
        means, halves = [], []
        for _ in range(20):
            mean, half = clustered_mean_ci95(difficulty_P + rng.normal(size=(64, 4)))
            means.append(mean)
            halves.append(half)
        rows = evaluations(gold_mean=means, gold_ci95=halves)
        alarmed += any(broken(rows[:end], gold_patience=2) for end in range(2, 21))
    assert alarmed <= 4


@pytest.mark.parametrize(
    ("means", "agrees"),
    [
        ([0], False),
        ([0, 1], True),
        ([0, 0.1], False),  # no more than noise
        ([0, 1, 0.95], True),
        ([0, 1, 0.5], False),  # above the start, and past its peak
        ([1, 0], False),
    ],
)
def test_gold_agrees_while_it_rises(means: list[float], agrees: bool) -> None:
    assert gold_agrees(golds(means)) is agrees
    # a run without one has nobody to agree
    assert not gold_agrees(evaluations(reward_mean=means, reward_ci95=[0.1] * len(means)))


def test_without_gold_the_win_rate_is_watched() -> None:
    rows = evaluations(win_rate=[0.5, 0.8, 0.6, 0.6], win_rate_ci95=[0.0, 0.05, 0.05, 0.05])
    assert alarms(rules_of(gold_patience=2), rows)[0].message == (
        "win rate 0.600 ± 0.050 is past its peak of 0.800 ± 0.050 in iteration 1"
    )


@pytest.mark.parametrize(
    ("guard", "limit", "key", "fine", "bad"),
    [
        ("kl_budget", 10, "kl_k1", [0, 10.0], [0, 10.5]),
        ("max_duplicate_share", 0.5, "duplicate_share", [0.1, 0.5], [0.1, 0.6]),
        ("min_distinct_2", 0.1, "distinct_2", [0.4, 0.1], [0.4, 0.09]),
        ("max_length_growth", 2.0, "length_mean", [40.0, 80.0], [40.0, 81.0]),
        ("max_perplexity_growth", 1.5, "perplexity", [10.0, 15.0], [10.0, 15.5]),
    ],
)
def test_limits(guard: str, limit: float, key: str, fine: list[float], bad: list[float]) -> None:
    assert broken(evaluations(**{key: fine}), **{guard: limit}) == []
    assert broken(evaluations(**{key: bad}), **{guard: limit}) == [guard]
    # the last evaluation counts; one alone is compared with nothing; None is off; so is no number
    assert broken(evaluations(**{key: [*bad, fine[1]]}), **{guard: limit}) == []
    assert broken(evaluations(**{key: bad[1:]}), **{guard: limit}) == []
    assert broken(evaluations(**{key: bad}), **{guard: None}) == []
    assert broken(evaluations(reward_mean=[0, 1]), **{guard: limit}) == []


def test_a_limit_that_the_start_is_beyond_says_so_and_nothing_else() -> None:
    rows = evaluations(duplicate_share=[0.7, 0.8], distinct_2=[0.4, 0.3])
    rules = rules_of(max_duplicate_share=0.5, min_distinct_2=0.1)
    assert alarms(rules, rows) == []
    assert [(idle.guard, idle.message) for idle in idle_rules(rules, rows[0])] == [
        ("max_duplicate_share", "the starting policy is at 0.70 already, beyond 0.5")
    ]


def test_the_best_is_by_gold_before_all_else() -> None:
    rows = evaluations(gold_mean=[0, 3, 3, 1], reward_mean=[0, 1, 2, 3], win_rate=[0, 9, 9, 9])
    assert best_iteration(rows) == 1
    assert best_iteration(evaluations(reward_mean=[0, 1, 2, 3], win_rate=[0, 9, 1, 1])) == 3
    assert best_iteration(evaluations(win_rate=[0.5, 0.9, 0.1])) == 1
    assert best_iteration(evaluations(length_mean=[1.0, 2.0])) == 1


# seats

WORKERS: dict[str, Any] = {"rollout_workers": 2, "reward_workers": 1, "trainer_workers": 1}


@pytest.mark.parametrize(
    ("gpus", "settings", "beside"),
    [
        (0, {}, ()),
        (1, {"rollout_workers": 1}, ("rollout", "reward")),
        (2, {}, ("rollout", "reward")),
        (2, {"reward_on_gpu": False}, ("rollout", "reward")),
        (4, {}, ("reward",)),
        (3, {"reward_on_gpu": False}, ("trainer",)),
        (5, {}, ()),
        (4, {"reward_on_gpu": False}, ()),
    ],
)
def test_the_monitor_finds_room(gpus: int, settings: dict[str, Any], beside: tuple[str]) -> None:
    placement = place(gpus=gpus, cores=8, **{**WORKERS, **settings})
    placed = place_monitor(placement, gpus, 8)
    assert placed.monitor is not None and placed.monitor_with == beside
    assert (placed.monitor.gpus > 0) is (gpus > 0)
    # no GPU is given out twice, and none more than there are
    shared: dict[int, float] = defaultdict(float)
    for one in (*placed.rollout, *placed.reward, *placed.trainer, placed.monitor):
        if one.slot is not None:
            shared[one.slot] += one.gpus
    assert all(total <= 1.0001 for total in shared.values())
    assert len(placed.slots) == len(shared) <= gpus


# the workers that measure policies


class Neighbour:
    def __init__(self, heard: list[str], name: str) -> None:
        self._heard = heard
        self._name = name

    def sleep(self) -> None:
        self._heard.append(f"{self._name} sleeps")

    def wake(self) -> None:
        self._heard.append(f"{self._name} wakes")


def measuring(
    root: Path, heard: list[str], deaths: int, monkeypatch: pytest.MonkeyPatch
) -> LogProbWorkers:
    """A group whose worker dies so often before it answers."""
    toy_runs.settings(root)
    left = [deaths]

    def measure(worker: LogProbWorker, *arguments: Any) -> Any:
        heard.append("measures")
        if left[0]:
            left[0] -= 1
            raise WorkerDiedError("gone")
        return arguments

    monkeypatch.setattr(LogProbWorker, "measure", measure)
    neighbours = [Neighbour(heard, "rollout"), Neighbour(heard, "reward")]
    executor = InlineExecutor()
    resources = place_monitor(place(gpus=0, cores=1, **WORKERS), 0, 1).monitor
    assert resources is not None
    return LogProbWorkers(
        executor, resources, str(root / "policy"), neighbours=neighbours, max_respawns=2
    )


def test_neighbours_sleep_while_it_works_and_the_dead_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    workers = measuring(tmp_path, heard, 2, monkeypatch)
    assert tuple(workers.measure("p", [], [])) == ("p", [], [])  # type: ignore[arg-type]
    before, after = ["rollout sleeps", "reward sleeps"], ["rollout wakes", "reward wakes"]
    assert heard == [*before, *["measures"] * 3, *after]


def test_too_many_deaths_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = measuring(tmp_path, [], 3, monkeypatch)
    with pytest.raises(WorkerDiedError, match="monitor workers died 3 times"):
        workers.measure("p", [], [])


# configs


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"monitor": {"stop_on": ["kl_budget"]}}, "stop_on: kl_budget monitor.kl_budget"),
        ({"monitor": {"stop_on": ["max_perplexity_growth"]}}, "monitor.reference_text"),
        (
            {"monitor": {"kl_budget": 5.0}, "eval": {"temperature": 0, "k": 1}},
            "monitor.kl_budget: KL is measured on samples",
        ),
        (
            {"monitor": {"kl_budget": 5.0}, "policy": {"tensor_parallel": 2}},
            "monitor.kl_budget: policies are measured on one GPU",
        ),
        ({"monitor": {"stop_on": ["kl_bugdet"]}}, "monitor.stop_on.0: is 'kl_bugdet', not one of"),
        (
            {"monitor": {"kl_budgets": 5}},
            "kl_budgets unknown did you mean monitor.kl_budget",
        ),
        ({"monitor": {"max_length_growth": 0.5}}, "not more than 1"),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path, sections: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError) as caught:
        toy_runs.config(tmp_path, **sections)
    assert says(caught.value, expected) and "\n" not in str(caught.value)


def test_nothing_stops_a_run_unasked(tmp_path: Path) -> None:
    assert toy_runs.config(tmp_path).monitor.stop_on == []
    assert toy_runs.config(tmp_path).monitor.kl_budget is None
