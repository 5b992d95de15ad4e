"""Train a model in shards, a part of every tensor in each process (FSDP2).

Weights, gradients and optimizer take an n-th of their memory in each of n processes; a layer is
whole while it computes. Checkpoints are those of one process: whole, written by the first, and read
by each process for its own part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from rewards.training import distributed
from rewards.training.examples import Example, micro_batches
from rewards.training.losses import Outcome, base_of
from rewards.training.model import training_device
from rewards.training.trainer import StepTrainer
from rollout.types import InputError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["ShardedTrainer"]

# sharded as groups of their own, which have one type: heads are float32 beside 16-bit weights
_HEADS = ("score", "v_head")


class _Root(nn.Module):
    """The module that a pass runs in.

    Objectives call parts of the model; only the outermost call gathers weights outside any layer.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        return run()


class ShardedTrainer(StepTrainer):
    """A trainer of a model's shards, over all processes; `put_whole` ends the sharding.

    Gradients are sums over the processes, in float32, as `distributed.sum_gradients` makes them.
    """

    _root: _Root

    def _begin_with(self, model: nn.Module, in_bfloat16: bool) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        base = base_of(model)
        mesh = init_device_mesh(training_device().type, (distributed.count(),))
        # gather in bfloat16 itself: autocast would keep a copy of every layer beside the shards
        gathered = torch.bfloat16 if in_bfloat16 else None
        policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=torch.float32)
        layers = set(base._no_split_modules or ())
        parts = [one for one in base.modules() if type(one).__name__ in layers]
        # of a GRM's head shard `summary`: the head returns a view, which hooks do not follow
        owned = (getattr(base, name, None) for name in _HEADS)
        heads = [getattr(one, "summary", one) for one in owned if one is not None]
        self._root = _Root(model)
        for part in (*parts, *heads, self._root):
            own = MixedPrecisionPolicy(reduce_dtype=torch.float32) if part in heads else policy
            # the root too: weights that stayed whole after a pass without gradients would be old
            fully_shard(part, mesh=mesh, mp_policy=own, reshard_after_forward=True)
        for module in self._root.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def put_whole(self) -> None:
        """Make the first process's model a plain one again, on the CPU; all processes call this."""
        whole: dict[int, nn.Parameter] = {}
        for module in self._module.modules():
            for name, own in list(module._parameters.items()):
                if own is None:
                    continue
                if id(own) not in whole:  # a tied weight stays tied
                    full = _whole(own.detach())
                    whole[id(own)] = nn.Parameter(own if full is None else full, own.requires_grad)
                module._parameters[name] = whole[id(own)]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        whole = _whole(self._module.state_dict())
        if self.args.should_save:
            self._save(output_dir, state_dict=whole)

    def _batches(self, examples: Sequence[Example]) -> list[tuple[list[Example], bool]]:
        """Return as many batches as each other process: every pass gathers weights from all."""
        own = super()._batches(examples)
        each = (distributed.shard(examples, rank) for rank in range(distributed.count()))
        most = max(len(micro_batches(one, self.budget, self.layout)) for one in each)
        shortest = min(examples, key=lambda one: one.tokens)
        return own + [([shortest], False)] * (most - len(own))

    def _outcome(self, batch: Sequence[Example]) -> Outcome:
        found: list[Outcome] = []

        def run() -> torch.Tensor:
            found.append(self.objective.run(self._module, batch))
            return found[0].loss

        with self.compute_loss_context_manager():
            loss = self._root(run)  # what the root returns is differentiated
        return replace(found[0], loss=loss)

    def _sum_gradients(self) -> None: ...  # the backward pass has summed them

    def _halve_budget(self, examples: Sequence[Example], error: BaseException) -> None:
        raise InputError(
            "train.micro_tokens",
            "out of memory, and shards cannot take a step again",
            f"set it to less than {self.budget}, or use gradient_checkpointing",
        ) from error

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Return the norm of all shards together, which the Trainer logs as a number."""
        norm: Any = super()._get_grad_norm(model, grad_norm)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        own: Any = self.optimizer
        whole = _whole(own.state_dict())
        with self._optimizer_is(state_dict=lambda: whole):
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        own: Any = self.optimizer

        def load(state: dict[str, Any]) -> None:
            own.load_state_dict(_part_of(state, own))

        with self._optimizer_is(load_state_dict=load):
            super()._load_optimizer_and_scheduler(checkpoint)

    @contextlib.contextmanager
    def _optimizer_is(self, **methods: Callable[..., object]) -> Iterator[None]:
        """Hold a stand-in with `methods` as the optimizer that the Trainer saves or loads."""
        own, stand_in = self.optimizer, cast("Any", SimpleNamespace(**methods))
        self.optimizer = stand_in
        try:
            yield
        finally:
            self.optimizer = own

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Take this process's part of a checkpoint's weights. Raises `InputError` without one."""
        from safetensors import safe_open

        folder = Path(resume_from_checkpoint)
        there: dict[str, torch.Tensor] = dict(self._module.named_parameters(remove_duplicate=False))
        there |= dict(self._module.named_buffers())
        found: set[int] = set()
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as tensors, torch.no_grad():
                for name in set(tensors.keys()) & there.keys():
                    there[name].copy_(_like(tensors.get_tensor(name), there[name]))
                    found.add(id(there[name]))
        for name, own in self._module.named_parameters():
            if id(own) not in found:
                raise InputError(folder, f"has no tensor {name}", "delete it, and train again")


def _part_of(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's whole state, cut as its weights are."""
    weights = [one for group in optimizer.param_groups for one in group["params"]]

    def cut(number: int, value: Any) -> Any:
        same = isinstance(value, torch.Tensor) and value.shape == weights[number].shape
        return _like(value, weights[number], value.dtype) if same else value

    parts = {
        number: {key: cut(number, value) for key, value in one.items()}
        for number, one in state["state"].items()
    }
    return {**state, "state": parts}


def _whole(value: Any) -> Any:
    """Return `value` with whole tensors on the CPU in the first process, None in the others."""
    from torch.distributed.tensor import DTensor

    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    if isinstance(value, DTensor):
        full = value.full_tensor()
        return full.cpu() if distributed.is_first() else None
    return value


def _like(whole: torch.Tensor, own: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return this process's part of a whole tensor, without communication."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    whole = whole.to(own.device, dtype or own.dtype)
    if not isinstance(own, DTensor):
        return whole
    own = cast("DTensor", own)
    return distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=None)
