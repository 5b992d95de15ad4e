"""Give vLLM engines the trainers' weights by vLLM's own transfer, without a disk.

Over NCCL, where trainers and engines have GPUs of their own: a group is made for one sync, in which
the first trainer is rank 0 and the GPUs of the engines are the other ranks, so that an engine that
was restarted is in the next group like any other. By CUDA's IPC, where they share GPUs: every
trainer packs tensors into a buffer on its GPU, from which the engine there copies them, chunk by
chunk. Either way trainers of a sharded policy gather each tensor together, and tensors have their
names in the files and the type that the engines compute in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rollout.engines.transfer import SentTensors, SharedChunk, Transfer
from rollout.engines.vllm_checks import names_of_weights
from rollout.errors import InputError

if TYPE_CHECKING:
    import torch
    import vllm

__all__ = [
    "BUFFER",
    "begin_taking",
    "receive_weights",
    "send_weights",
    "sent_tensors",
    "shared_chunks",
    "take_chunk",
]

BUFFER = 2**30  # bytes of a buffer on a shared GPU; more where a tensor is larger


def sent_tensors(model: torch.nn.Module, dtype: str) -> SentTensors:
    """Return names, types and shapes of what a trainer sends, in order, without gathering it."""
    weights = _weights(model)
    dtypes = [_dtype(value, dtype) for value in weights.values()]
    return SentTensors(
        names=list(weights),
        dtypes=[str(one).removeprefix("torch.") for one in dtypes],
        shapes=[list(value.shape) for value in weights.values()],
    )


def send_weights(model: torch.nn.Module, dtype: str, rank: int, to: Transfer) -> None:
    """Send a model's weights, and return when they have arrived.

    Every trainer takes part, and rank 0 sends.
    """
    import torch
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
    from vllm.distributed.weight_transfer.nccl_engine import (
        NCCLTrainerInitInfo,
        NCCLTrainerWeightTransferEngine,
    )

    class Policy(WeightSource):
        def metadata(self) -> list[ParamMeta]:
            return [
                ParamMeta(name, _dtype(value, dtype), tuple(value.shape))
                for name, value in _weights(model).items()
            ]

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            return _whole(model, dtype)

    meeting = NCCLTrainerInitInfo(
        rank=rank,
        master_address=to.host,
        master_port=to.port,
        world_size=to.world,
        packed=False,
    )
    engine = NCCLTrainerWeightTransferEngine.trainer_init(meeting, client=_Told(), source=Policy())
    try:
        with torch.no_grad():
            engine.send_weights()
    finally:
        engine.shutdown()


def receive_weights(llm: vllm.LLM, folder: str, given: Transfer) -> None:
    """Take an engine's part in a transfer of the policy that `folder` holds as well.

    Raises:
        InputError: a tensor in the files is not among those that are sent, by its name.
    """
    tensors = given.tensors
    _check_names(tensors.names, folder, "nccl")
    meeting = {
        "master_address": given.host,
        "master_port": given.port,
        "rank_offset": given.rank,
        "world_size": given.world,
        "packed": False,
    }
    update = {"names": tensors.names, "dtype_names": tensors.dtypes, "shapes": tensors.shapes}
    engine: Any = llm  # bare dicts
    engine.init_weight_transfer_engine({"init_info": meeting})
    engine.start_weight_update()
    engine.update_weights({"update_info": update})
    engine.finish_weight_update()
    engine.shutdown_weight_transfer_engine()


def shared_chunks(model: torch.nn.Module, dtype: str) -> Iterator[SharedChunk]:
    """Yield a model's weights chunk by chunk, each in the same buffer on this trainer's GPU.

    The engine on this GPU must have copied a chunk before the next is asked for. Every trainer
    takes part, and all yield the same tensors. Torch can free the buffer (`torch.cuda.ipc_collect`)
    once one engine has opened and closed it.
    """
    import torch
    from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_producer

    sizes = [
        math.prod(value.shape) * _dtype(value, dtype).itemsize for value in _weights(model).values()
    ]
    cuda: Any = torch.cuda  # its properties have no types
    chunks: Any = packed_ipc_producer(
        _whole(model, dtype),
        str(cuda.get_device_properties(cuda.current_device()).uuid),
        itemgetter(1),
        max([*sizes, min(BUFFER, sum(sizes))]),
    )
    for chunk in chunks:
        tensors = SentTensors(chunk.names, chunk.dtype_names, chunk.shapes)
        yield SharedChunk(tensors, chunk.tensor_sizes, chunk.ipc_handle)


def begin_taking(llm: vllm.LLM, folder: str, names: Sequence[str]) -> None:
    """Make an engine ready for the chunks of the policy that `folder` holds as well.

    Raises:
        InputError: a tensor in the files is not among `names`, those of the trainers' tensors.
    """
    _check_names(names, folder, "ipc")
    engine: Any = llm  # bare dicts
    engine.init_weight_transfer_engine({"init_info": {"packed": True}})
    engine.start_weight_update()


def take_chunk(llm: vllm.LLM, chunk: SharedChunk | None) -> None:
    """Copy a chunk into an engine's weights; None: all have come, and the buffer is closed."""
    import torch

    engine: Any = llm  # bare dicts
    if chunk is None:
        engine.finish_weight_update()
        engine.shutdown_weight_transfer_engine()
        torch.cuda.empty_cache()  # what the copies were in, before the cache takes its share
        return
    tensors = chunk.tensors
    update = {"names": tensors.names, "dtype_names": tensors.dtypes, "shapes": tensors.shapes}
    update |= {"tensor_sizes": chunk.sizes, "ipc_handles": chunk.handles}
    engine.update_weights({"update_info": update})


class _Told:
    """Stands for the engines: the driver, not the trainer, tells them what to do in a transfer."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


def _check_names(names: Sequence[str], folder: str, way: str) -> None:
    if missing := sorted(names_of_weights(folder) - {*names}):
        raise InputError(
            "policy.sync",
            f"{way}: the trainer has no tensor {missing[0]}, as the policy's files call it",
            "use disk",
        )


def _weights(model: torch.nn.Module) -> Mapping[str, Any]:
    """Return a model's tensors by their names; a tied tensor is there once, by its first name."""
    found: dict[int, str] = {}
    whole: dict[str, Any] = model.state_dict(keep_vars=True)
    for name, value in whole.items():
        found.setdefault(id(value), name)
    return {name: whole[name].detach() for name in found.values()}


def _whole(model: torch.nn.Module, dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a model's tensors whole, on the trainer's device, in the engines' dtype.

    Shards are cast before they are gathered: fewer bytes are sent and held.
    """
    import torch

    device = next(model.parameters()).device
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
    for name, value in _weights(model).items():
        cast = value.to(_dtype(value, dtype))
        yield name, (cast.full_tensor() if hasattr(cast, "full_tensor") else cast).to(device)


def _dtype(value: torch.Tensor, dtype: str) -> torch.dtype:
    import torch

    return getattr(torch, dtype) if value.is_floating_point() else value.dtype
