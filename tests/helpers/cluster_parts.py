"""What the cluster's tests run in workers: importable by name over there."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

from raft.workers.reward import RewardWorker
from rollout.types import InputError

HEAVY = ("torch", "transformers", "trl", "vllm", "datasets", "peft")


class Part:
    def __init__(self, refuse: bool = False) -> None:
        if refuse:
            raise InputError("policy.model", "not this one")

    def environment(self, *names: str) -> list[str | None]:
        return [os.environ.get(name) for name in names]

    def loaded(self) -> list[str]:
        return [name for name in HEAVY if name in sys.modules]

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise KeyError("inside")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def count(self, numbers: int, die_at: int | None = None) -> Iterator[int]:
        for number in range(numbers):
            if number == die_at:
                time.sleep(0.5)  # what was said before is on its way
                self.die()
            yield number


class TellingRewardWorker(RewardWorker):
    """A real reward worker that also tells what it has imported."""

    def loaded(self) -> list[str]:
        return [name for name in HEAVY if name in sys.modules]
