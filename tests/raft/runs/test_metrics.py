"""TensorBoard gets the numbers that metrics.jsonl has."""

from __future__ import annotations

import pytest

from raft.config.run import LogConfig
from raft.runs.metrics import Sinks


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
