"""Times of an iteration; TensorBoard gets the numbers that metrics.jsonl has."""

from __future__ import annotations

import pytest

from raft.config.run import LogConfig
from raft.runs.metrics import Sinks, Stopwatch


def test_waiting_for_workers_is_no_part_of_the_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 3.0, 8.0, 9.0, 10.0, 11.0])
    monkeypatch.setattr("raft.runs.metrics.time.monotonic", lambda: next(clock))
    watch = Stopwatch()
    for stage in ("eval", "start", "eval"):
        with watch(stage):
            pass
    found = watch.metrics()
    assert found == {"time/eval": 3.0, "time/start": 5.0, "time/iteration": 6.0}


def test_tensorboard_gets_every_number_at_its_iteration(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Sinks(LogConfig(sinks=["tensorboard"]), tmp_path, {}) as sinks:
        sinks.write({"iteration": 0, "phase": "eval", "eval/reward_mean": 1.5})
        sinks.write({"iteration": 1, "phase": "eval", "eval/reward_mean": 2.5})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("eval/reward_mean")]
    assert found == [(0, 1.5), (1, 2.5)]


def test_no_sink_writes_nothing(tmp_path):
    with Sinks(LogConfig(), tmp_path, {}) as sinks:
        sinks.write({"iteration": 0, "phase": "eval", "eval/reward_mean": 1.5})
    assert not list(tmp_path.iterdir())
