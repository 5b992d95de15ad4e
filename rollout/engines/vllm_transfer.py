"""Send weights from the trainers to vLLM engines over NCCL, by vLLM's own transfer, without a disk.

A group is made for one sync: the first trainer is rank 0, and the GPUs of the engines are the other
ranks, so that an engine that was restarted is in the next group like any other. Trainers of a
sharded policy gather each tensor together. Tensors are sent one by one, under their names in the
files, in the type that the engines compute in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rollout.engines.base import SentTensors, Transfer
from rollout.engines.vllm_checks import names_of_weights
from rollout.errors import InputError

if TYPE_CHECKING:
    import torch
    import vllm

__all__ = ["receive_weights", "send_weights", "sent_tensors"]


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

    weights, (device, *_) = _weights(model), [one.device for one in model.parameters()]
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())

    class Policy(WeightSource):
        def metadata(self) -> list[ParamMeta]:
            return [
                ParamMeta(name, _dtype(value, dtype), tuple(value.shape))
                for name, value in weights.items()
            ]

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            for name, value in weights.items():
                whole = value.full_tensor() if hasattr(value, "full_tensor") else value
                yield name, whole.to(device, _dtype(value, dtype))

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
    if missing := sorted(names_of_weights(folder) - {*tensors.names}):
        raise InputError(
            "policy.sync",
            f"nccl: the trainer has no tensor {missing[0]}, as the policy's files call it",
            "use disk",
        )
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


class _Told:
    """Stands for the engines: the driver, not the trainer, tells them what to do in a transfer."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


def _weights(model: torch.nn.Module) -> Mapping[str, Any]:
    """Return a model's tensors by their names; a tied tensor is there once, by its first name."""
    found: dict[int, str] = {}
    whole: dict[str, Any] = model.state_dict(keep_vars=True)
    for name, value in whole.items():
        found.setdefault(id(value), name)
    return {name: whole[name].detach() for name in found.values()}


def _dtype(value: torch.Tensor, dtype: str) -> torch.dtype:
    import torch

    return getattr(torch, dtype) if value.is_floating_point() else value.dtype
