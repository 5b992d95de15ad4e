"""`raft train-reward` in two processes, started as torchrun starts them.

They are forked from one process that has the libraries loaded: importing them takes several times
as long as the training.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from pathlib import Path

from raft.updates.trainer import rendezvous_address, set_torchrun_env

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["raft.reward_training.run", "rewards.training.trainer"])


def train_in_two(config: Path, *, kill_at: str = "") -> str:
    """What both said on standard error. With `kill_at` they are killed when one has said that."""
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
