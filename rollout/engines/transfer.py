"""What trainers and engines tell each other to give weights without a disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

# how engines get an update's weights (`policy.sync`), and the ways that need no disk
Sync = Literal["auto", "disk", "nccl", "ipc"]
WITHOUT_DISK: tuple[Sync, ...] = ("nccl", "ipc")


@dataclass(frozen=True)
class SentTensors:
    """The tensors of a transfer, in order; `dtypes` are torch's names ("bfloat16")."""

    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]


@dataclass(frozen=True)
class Transfer:
    """The NCCL group in which trainers send weights to engines without a disk.

    Args:
        rank: rank of an engine's first GPU; the first trainer has rank 0.
        world: number of ranks in the group.
    """

    host: str
    port: int
    rank: int
    world: int
    tensors: SentTensors


@dataclass(frozen=True)
class SharedChunk:
    """Some tensors of a policy, in a buffer on each GPU that a trainer shares with an engine.

    Args:
        sizes: bytes of each tensor; the next begins where one ends.
        handles: for the UUID of each of the GPUs, the arguments with which torch opens the buffer
            there in another process.
    """

    tensors: SentTensors
    sizes: list[int]
    handles: dict[str, tuple[Any, ...]]
