"""Weights and optimizer state sharded over GPUs (FSDP): out of their shards, and back into them.

It takes several GPUs to run; the tests have none, so this has been read and not run.
"""

from __future__ import annotations

from typing import Any


def gather_whole(model: Any, optimizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Whole weights and optimizer state, on the CPU of rank 0; every rank takes part."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_state_dict(model, optimizer, options=whole)


def restore_at_start(optimizer_state: dict[str, Any]) -> Any:
    """A callback that shards a whole optimizer state: there are no shards before training."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
    from transformers import TrainerCallback

    class Restore(TrainerCallback):
        pending = True

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.pending:
                self.pending = False
                whole = StateDictOptions(full_state_dict=True)
                optimizer = kwargs["optimizer"].optimizer
                set_optimizer_state_dict(kwargs["model"], optimizer, optimizer_state, options=whole)

    return Restore()
