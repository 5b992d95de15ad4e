"""Workers that die when told to, for runs on Ray. `$RAFT_TEST_FAULTS` is a folder of orders.

A file `NAME` there holds how many deaths are left; workers of any process count it down.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raft.config.train import TrainConfig
from raft.monitor.kl import LogProbWorker
from raft.updates.toy import ToyTrainer
from raft.updates.trainer import Update
from raft.workers.reward import RewardWorker
from raft.workers.rollout_worker import RolloutWorker
from rollout.storage.files import whole_binary, write_json
from rollout.types import Group


def order(folder: Path, **deaths: int) -> None:
    folder.mkdir(exist_ok=True)
    for name, count in deaths.items():
        (folder / name).write_text(str(count))


def maybe_die(name: str) -> None:
    """End this process as the kernel would, if a death of this name is left."""
    path = Path(os.environ["RAFT_TEST_FAULTS"]) / name
    if not path.exists():
        return
    with open(path, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        left = int(file.read())
        if left == 0:
            return
        file.seek(0)
        file.truncate()
        file.write(str(left - 1))
        file.flush()
    os.kill(os.getpid(), signal.SIGKILL)


class DyingRolloutWorker(RolloutWorker):
    def generate(self, *arguments: Any) -> Iterator[list[Group]]:
        for parcel in super().generate(*arguments):
            for group in parcel:
                yield [group]
                maybe_die("generate")

    def load_weights(self, path: str, version: int) -> None:
        maybe_die("load_weights")
        super().load_weights(path, version)


class DyingRewardWorker(RewardWorker):
    def score(self, *arguments: Any) -> Any:
        maybe_die("score")
        return super().score(*arguments)


class DyingLogProbWorker(LogProbWorker):
    def measure(self, *arguments: Any) -> Any:
        maybe_die("measure")
        return super().measure(*arguments)


class DyingTrainer(ToyTrainer):
    def train(self, update: Update) -> dict[str, float | int]:
        assert update.out_dir is not None, "one toy trainer alone writes"
        half = Path(update.out_dir) / "half"
        half.parent.mkdir()
        half.write_text("of a checkpoint")
        maybe_die("train")
        half.unlink()
        return super().train(update)


class RememberingTrainer(ToyTrainer):
    """One whose steps grow from update to update, as what it remembers says.

    It writes that as late as can be: when it is asked for the second time.
    """

    def __init__(
        self, model: str, settings: TrainConfig, *, checkpoint: str | None = None, rank: int = 0
    ) -> None:
        super().__init__(model, settings, checkpoint=checkpoint, rank=rank)
        self._made = int((Path(checkpoint) / "optimizer.pt").read_text()) if checkpoint else 0
        self._rate = settings.learning_rate
        self._asked = False

    def train(self, update: Update) -> dict[str, float | int]:
        grown = {"learning_rate": self._rate * (1 + self._made)}
        self._settings = self._settings.model_copy(update=grown)
        metrics = super().train(update)
        self._made += 1
        self._asked = False
        if update.out_dir is not None and update.whole:
            write_json(Path(update.out_dir) / "optimizer.json", ["optimizer.pt"])
        return metrics

    def store(self, checkpoint: str) -> None:
        if self._asked:
            with whole_binary(Path(checkpoint) / "optimizer.pt") as file:
                file.write(str(self._made).encode())
        self._asked = True


def build_trainer(
    model: str, settings: TrainConfig, checkpoint: str | None, rank: int, **_: Any
) -> ToyTrainer:
    return DyingTrainer(model, settings, checkpoint=checkpoint, rank=rank)
