"""Join several processes of one training, as torchrun and `accelerate launch` start them.

Every process holds the whole model, or a part of it (`rewards.training.shards`), takes its share of
each step's examples, and adds its gradients to the others': the weights are those of one process,
to rounding. In a single process these functions do nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = [
    "all_gather",
    "barrier",
    "count",
    "decided_by_first",
    "is_first",
    "local_rank",
    "shard",
    "shutdown",
    "sum_gradients",
    "summed",
]  # fmt: skip

_Item = TypeVar("_Item")
_BUCKET = 2**24  # numbers in one message


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this is the process that writes files and reports."""
    return _rank() == 0


def local_rank() -> int:
    """Return this process's number among those of its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def shard(items: Sequence[_Item], rank: int | None = None) -> Sequence[_Item]:
    """Return the items that process `rank` (by default this one) works on."""
    return items[_rank() if rank is None else rank :: count()]


def all_gather(own: Sequence[_Item]) -> list[_Item]:
    """Return the results of all processes for their `shard`s, in the order of the whole."""
    if count() == 1:
        return list(own)
    import torch.distributed as dist

    parts: list[Sequence[_Item]] = [()] * count()
    dist.all_gather_object(parts, list(own))
    whole = [item for part in parts for item in part]
    for rank, part in enumerate(parts):
        whole[rank :: count()] = part
    return whole


def decided_by_first(decide: Callable[[], _Item]) -> _Item:
    """Return what `decide` returns in the first process; the others do not call it."""
    if count() == 1:
        return decide()
    import torch.distributed as dist

    said: list[_Item | None] = [decide() if is_first() else None]
    dist.broadcast_object_list(said)
    return said[0]  # type: ignore[return-value]


def summed(value: torch.Tensor) -> torch.Tensor:
    """Sum a value over all processes in place, and return it."""
    if count() > 1:
        import torch.distributed as dist

        dist.all_reduce(value)
    return value


def sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Make every gradient the sum over all processes; one that no process has remains None."""
    if count() == 1:
        return
    import torch

    trained = [parameter for parameter in parameters if parameter.requires_grad]
    there = torch.tensor([one.grad is not None for one in trained], dtype=torch.int32)
    there = summed(there.to(trained[0].device))
    gradients: list[torch.Tensor] = []
    for parameter, processes in zip(trained, there.tolist(), strict=True):
        if processes:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    for together in _buckets(gradients):
        flat = summed(torch.cat([one.reshape(-1) for one in together]))
        for one, part in zip(together, flat.split([one.numel() for one in together]), strict=True):
            one.copy_(part.view_as(one))


def _buckets(tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Group consecutive tensors of one type, so that few messages are sent."""
    found: list[list[torch.Tensor]] = []
    room, dtype = 0, None
    for one in tensors:
        if one.numel() > room or one.dtype != dtype:
            found.append([])
            room, dtype = _BUCKET, one.dtype
        found[-1].append(one)
        room -= one.numel()
    return found


def barrier() -> None:
    """Wait until all processes have reached this call."""
    if count() > 1:
        import torch.distributed as dist

        dist.barrier()


def shutdown() -> None:
    """Leave the group of processes."""
    if count() > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
