"""What a trainer is, which one updates a policy, and where several of them meet."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from raft.config.train import TrainConfig
    from rollout.engines.base import SentTensors, Transfer

METRICS_FILE = "train.json"


@dataclass(frozen=True, slots=True)
class Update:
    """What an update follows from, besides the policy: selected rows, and a seed.

    Attributes:
        out_dir: where weights and tokenizer are written; None: nowhere.
        whole: `store` will write the optimizer there; without it training cannot go on there.
        drawn_by: the policy that drew the rows; None for the one that is trained.
    """

    rows: str
    seed: int
    out_dir: str | None = None
    whole: bool = True
    drawn_by: str | None = None


class Trainer(Protocol):
    """Holds the policy's trainable weights, and its optimizer from update to update."""

    def rendezvous(self) -> tuple[str, int]:
        """Address and port at which rank 0 of several trainers waits for the others."""
        ...

    def join(self, host: str, port: int) -> None:
        """Meet the other ranks there; called once on each rank before anything else."""
        ...

    def rehearse(self, prompt: int, response: int) -> float:
        """Make an update on rows of so many tokens, which changes nothing; called before others.

        Returns the GiB of the GPU that it took, 0 on a CPU.

        Raises:
            InputError: there is no memory for it.
        """
        ...

    def train(self, update: Update) -> dict[str, float | int]:
        """Make the update; its metrics."""
        ...

    def store(self, checkpoint: str) -> None:
        """Write this rank's part of the optimizer to the checkpoint of the last update, once."""
        ...

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        """log p(token_t | tokens before t) for t = 1 … T−1, in nats."""
        ...

    def tensors(self, dtype: str) -> SentTensors:
        """What `send` sends to engines that compute in `dtype`."""
        ...

    def send(self, to: Transfer, dtype: str) -> None:
        """Send the weights to engines that receive them now; called on each rank."""
        ...

    def dtype(self) -> str:
        """What log-probabilities are computed in."""
        ...

    def sleep(self) -> None: ...

    def wake(self) -> None: ...


def build_trainer(
    model: str,
    settings: TrainConfig,
    *,
    checkpoint: str | None = None,
    rank: int = 0,
    world_size: int = 1,
    threads: int | None = None,
) -> Trainer:
    """The TRL trainer, or the toy's for a toy policy.

    Args:
        model: the starting policy.
        checkpoint: the policy to go on from; None for `model` itself.
        threads: CPU threads for torch; None leaves its own choice.
    """
    from rollout.engines.base import TOY_FILE

    if (Path(model) / TOY_FILE).exists():
        from raft.updates.toy import ToyTrainer

        return ToyTrainer(model, settings, checkpoint=checkpoint, rank=rank)
    if settings.update.kind == "dpo":
        from raft.updates.dpo import DPO as Learner
    else:
        from raft.updates.sft import SFT as Learner

    return Learner(
        model, settings, checkpoint=checkpoint, rank=rank, world_size=world_size, threads=threads
    )


def trainer_imports(settings: TrainConfig) -> tuple[str, ...]:
    """What takes `build_trainer` long to import: TRL comes with the second of them."""
    loss = "dpo" if settings.update.kind == "dpo" else "objective"
    return ("raft.updates.sft", f"raft.updates.{loss}")


def rendezvous_address() -> tuple[str, int]:
    """The address by which other machines reach this one, and a free port of it."""
    return _own_address(), _free_port()


def set_torchrun_env(host: str, port: int, rank: int, world_size: int) -> None:
    """Tell torch.distributed where the ranks meet, as torchrun does."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": "0",  # every rank sees one device of its own
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only looks up the route
            return probe.getsockname()[0]
        except OSError:  # no route but to itself
            return "127.0.0.1"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
