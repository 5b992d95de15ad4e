"""Log-probabilities of rows by the policy that drew them, or by the starting policy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from raft.updates.policy import load_policy, shards_restored
from raft.updates.rows import TrainingRow

if TYPE_CHECKING:
    import torch


def row_log_probs(
    accelerator: Any,
    model: Any,
    rows: Sequence[TrainingRow],
    *,
    per_forward: int,
    pad_token_id: int,
    autocast: bool,
) -> list[list[float]]:
    """Return log p(token | tokens before) in nats of every row, T − 1 each; 0 where not trained on.

    The ranks of `accelerator` share the rows, and each gets all results. `model` has TRL's fused
    head.
    """
    import torch
    from accelerate.utils import gather_object
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(pad_token_id=pad_token_id)
    rank, world = accelerator.process_index, accelerator.num_processes
    # rows of one length waste no padding; every rank makes as many forward passes
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]["input_ids"]))
    order += [order[-1]] * (-len(order) % world)
    own, found = order[rank::world], []
    was_training = model.training
    model.eval()
    mixed = torch.autocast("cuda", torch.bfloat16, autocast)
    with torch.no_grad(), mixed, shards_restored(model):
        for start in range(0, len(own), per_forward):
            part = own[start : start + per_forward]
            batch = collate([rows[n] for n in part])
            given = {key: value.to(accelerator.device) for key, value in batch.items()}
            said = model(**given, use_cache=False, fused_lm_head=True).log_probs.float().tolist()
            found += [
                (n, row[: len(rows[n]["labels"]) - 1]) for n, row in zip(part, said, strict=True)
            ]
    model.train(was_training)
    answers = dict(gather_object(found) if world > 1 else found)
    return [answers[n] for n in range(len(rows))]


@contextlib.contextmanager
def other_policy(trainer: Any, folder: str, dtype: torch.dtype, beneath: bool) -> Iterator[Any]:
    """Load another policy than the trained one for the context, and yield it with TRL's fused head.

    With `beneath`, it is the policy beneath the trained adapter: nothing is loaded, and the trained
    model is yielded with its adapter disabled.
    """
    if beneath:
        with trainer.accelerator.unwrap_model(trainer.model).disable_adapter():
            yield trainer.model
        return
    from trl.trainer.utils import add_fused_lm_head

    model = load_policy(folder, None, dtype, None).to(trainer.accelerator.device)
    add_fused_lm_head(model)
    yield model


def put_start(trainer: Any, start: str, dtype: torch.dtype, lora: bool) -> None:
    """Reset the trained policy to the starting one; torch's generator draws an adapter anew."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not lora:
        model.load_state_dict(load_policy(start, None, dtype, None).state_dict())
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            for adapter in module.active_adapters:
                module.reset_lora_parameters(adapter, init_lora_weights=True)  # type: ignore[operator]
