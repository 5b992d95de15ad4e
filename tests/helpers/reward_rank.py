"""Trainings of a reward model by two processes, as torchrun starts them.

They are forked from one process that has the libraries loaded, which torchrun's are not.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from raft.updates.trainer import rendezvous_address

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["torch", "transformers", "rewards.training.shards"])


def train_together(settings: Mapping[str, Any], *, stop_at: int | None = None) -> list[str]:
    """What each process says at its end: nothing, or its error. With `stop_at` they are gone when
    that step is told."""
    _, port = rendezvous_address()
    ends: list[Connection] = []
    processes = []
    for rank in (0, 1):
        mine, its = _FORKED.Pipe(duplex=False)
        process = _FORKED.Process(
            target=_train, args=(its, rank, port, dict(settings), stop_at), daemon=True
        )
        process.start()
        its.close()
        processes.append(process)
        ends.append(mine)
    try:
        return [_said(end) for end in ends]
    finally:
        for process in processes:
            process.kill()


def _said(end: Connection) -> str:
    assert end.poll(300), "a process has not ended within 300 s"
    try:
        return end.recv()
    except EOFError:
        return "gone"


def _train(
    end: Connection, rank: int, port: int, settings: dict[str, Any], stop_at: int | None
) -> None:
    named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2,
             "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
    os.environ |= {name: str(value) for name, value in named.items()}
    import torch

    from raft.config.train_reward import make_train_config
    from raft.reward_training.run import train_reward
    from rewards.training.trainer import StepTrainer

    torch.set_num_threads(1)
    tell = StepTrainer._tell

    def told(self: Any, values: Any) -> None:
        tell(self, values)
        if stop_at is not None and self.state.global_step >= stop_at:
            os._exit(9)

    StepTrainer._tell = told
    try:
        train_reward(make_train_config(settings))
        end.send("")
    except BaseException:
        end.send(traceback.format_exc())
