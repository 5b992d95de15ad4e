"""A reward model trained in two processes, with the environment that torchrun gives them.

They are forked from one process that has the libraries loaded: importing them takes several times
as long as the training.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from raft.updates.trainer import rendezvous_address, set_torchrun_env

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["raft.reward_training.run", "rewards.training.shards"])


def train_in_two(config: Path, *, kill_at: str = "") -> str:
    """What both said on standard error of `raft train-reward`. With `kill_at` they are killed when
    one has said that."""
    _, port = rendezvous_address()
    logs = [config.with_suffix(f".{rank}.log") for rank in (0, 1)]
    processes = [
        _FORKED.Process(target=_rank, args=(rank, port, str(config), str(log)), daemon=True)
        for rank, log in enumerate(logs)
    ]
    for log, process in zip(logs, processes, strict=True):
        log.write_text("")
        process.start()
    until = time.monotonic() + 300
    try:
        while any(process.is_alive() for process in processes):
            assert time.monotonic() < until, "the processes have not ended within 300 s"
            if kill_at and any(kill_at in log.read_text() for log in logs):
                break
            if any(process.exitcode for process in processes):
                break  # the other waits for it
            time.sleep(0.02)
    finally:
        for process in processes:
            process.kill()
            process.join()
    said = "".join(log.read_text() for log in logs)
    assert kill_at or [process.exitcode for process in processes] == [0, 0], said
    return said


def _rank(rank: int, port: int, config: str, log: str) -> None:
    from raft.cli.main import main

    set_torchrun_env("127.0.0.1", port, rank, 2)
    with open(log, "w", buffering=1) as file, contextlib.redirect_stderr(file):
        os.dup2(file.fileno(), 2)
        sys.exit(main(["train-reward", config]))


def train_together(
    settings: Mapping[str, Any], *, stop_at: int | None = None, in_16_bits: bool = False
) -> list[str]:
    """What each process says at its end: nothing, or its error. With `stop_at` they are gone when
    that step is told; with `in_16_bits` they compute as on a GPU."""
    _, port = rendezvous_address()
    ends: list[Connection] = []
    processes = []
    for rank in (0, 1):
        mine, its = _FORKED.Pipe(duplex=False)
        process = _FORKED.Process(
            target=_train,
            args=(its, rank, port, dict(settings), stop_at, in_16_bits),
            daemon=True,
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
    end: Connection,
    rank: int,
    port: int,
    settings: dict[str, Any],
    stop_at: int | None,
    in_16_bits: bool,
) -> None:
    set_torchrun_env("127.0.0.1", port, rank, 2)
    import torch

    from raft.config.train_reward import make_train_config
    from raft.reward_training.run import train_reward
    from rewards.training import trainer
    from rewards.training.trainer import StepTrainer

    if in_16_bits:
        trainer.computes_in_bfloat16 = lambda settings: True
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
