"""The trainer protocol, the trainer that fits a policy, and the address where ranks meet."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from raft.config.train import TrainConfig
    from rollout.engines.transfer import SentTensors, SharedChunk, Transfer

METRICS_FILE = "train.json"


@dataclass(frozen=True, slots=True)
class Update:
    """The inputs of an update besides the policy: a file of selected rows, and a seed.

    Attributes:
        out_dir: where weights and tokenizer are written; None: nowhere.
        whole: whether `store` will write the optimizer there, so that training can go on from it.
        drawn_by: the folder of the policy that drew the rows; None for the one that is trained.
    """

    rows: str
    seed: int
    out_dir: str | None = None
    whole: bool = True
    drawn_by: str | None = None


class Trainer(Protocol):
    """A holder of the policy's trainable weights and, from update to update, of its optimizer."""

    def rendezvous(self) -> tuple[str, int]:
        """Return the address and port at which rank 0 of several trainers waits for the others."""
        ...

    def join(self, host: str, port: int) -> None:
        """Meet the other ranks at rank 0's address; called once on each before anything else."""
        ...

    def rehearse(self, prompt: int, response: int) -> float:
        """Try an update on rows of so many tokens, which changes nothing; called before any other.

        Return the GiB of GPU memory that it took at its peak, 0 on a CPU.

        Raises:
            InputError: there is not enough memory for it.
        """
        ...

    def train(self, update: Update) -> dict[str, float | int]:
        """Make the update and return its metrics."""
        ...

    def store(self, checkpoint: str) -> None:
        """Write this rank's part of the optimizer to the checkpoint of the last update, once."""
        ...

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        """Return log p(token_t | tokens before t) for t = 1 … T−1, in nats."""
        ...

    def tensors(self, dtype: str) -> SentTensors:
        """Return the names, dtypes and shapes of what engines of `dtype` get."""
        ...

    def send(self, to: Transfer, dtype: str) -> None:
        """Send the weights to engines that receive them now; called on each rank."""
        ...

    def share(self, dtype: str, first: bool) -> SharedChunk | None:
        """Return the next chunk of the weights, in a buffer on this rank's GPU; None: no more.

        With `first` it is the first. A chunk is gone with the next call, the buffer with `sleep`.
        Called on each rank at once.
        """
        ...

    def dtype(self) -> str:
        """Return the dtype that log-probabilities are computed in, by torch's name."""
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
    """Return one rank of the policy's trainer: TRL's, or the toy's for a toy policy.

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
    """Return the modules that take `build_trainer` long to import; the second imports TRL."""
    loss = "dpo" if settings.update.kind == "dpo" else "objective"
    return ("raft.updates.sft", f"raft.updates.{loss}")


def rendezvous_address() -> tuple[str, int]:
    """Return the address by which other machines reach this one, and a free port on it."""
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
