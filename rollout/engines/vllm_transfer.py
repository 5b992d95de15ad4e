"""Weights from the trainers to vLLM engines over NCCL, by vLLM's own transfer: no disk between.

The first trainer is rank 0 of a group that is made for one sync, and the GPUs of the engines are
the others; so an engine that was started anew belongs to the next group like any other. Trainers of
a sharded policy gather each tensor together. Tensors go one by one, by the names that files have,
in what the engines compute in.
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
    """What a trainer sends of its model, in order; nothing is gathered for it."""
    weights = _weights(model)
    dtypes = [_dtype(value, dtype) for value in weights.values()]
    return SentTensors(
        names=list(weights),
        dtypes=[str(one).removeprefix("torch.") for one in dtypes],
        shapes=[list(value.shape) for value in weights.values()],
    )


def send_weights(model: torch.nn.Module, dtype: str, rank: int, to: Transfer) -> None:
    """Send a model's weights; every trainer takes part, and rank 0 sends. Returns when they are
    there."""
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
        InputError: files and trainer call its tensors by different names.
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
    """Stands for the engines, which the driver tells what to do while the trainers send."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


def _weights(model: torch.nn.Module) -> Mapping[str, Any]:
    """A model's tensors by their names, a tied one by its first."""
    found: dict[int, str] = {}
    whole: dict[str, Any] = model.state_dict(keep_vars=True)
    for name, value in whole.items():
        found.setdefault(id(value), name)
    return {name: whole[name].detach() for name in found.values()}


def _dtype(value: torch.Tensor, dtype: str) -> torch.dtype:
    import torch

    return getattr(torch, dtype) if value.is_floating_point() else value.dtype
