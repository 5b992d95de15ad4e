"""A dry update, which shows before hours are spent whether the largest update fits the memory.

It is the trainer's own update on rows made up for it, up to the optimizer's step, which has
gradients of zero and a rate of zero. It makes two steps of up to two forward passes: in the second
step the optimizer's state is in memory, in the second pass the gradients of the first. Weights,
optimizer and random numbers are afterwards the same as before, bit for bit.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from raft.selection.rows import Rejected, SelectedRow
from raft.updates.policy import forward_unwrapped
from raft.updates.rows import MIXED
from rollout.storage.files import write_rows
from rollout.text.printable import one_line
from rollout.types import InputError

if TYPE_CHECKING:
    from datasets import Dataset

    from raft.config.train import TrainConfig

__all__ = ["make_dry_update"]

_STEPS = _PASSES = 2


class _NoGradients(TrainerCallback):
    """A callback that sets gradients to zero before each step, so that weights do not change, not
    even to NaN."""

    def on_pre_optimizer_step(
        self, args: object, state: object, control: object, **kwargs: Any
    ) -> None:
        for weight in kwargs["model"].parameters():
            if weight.grad is not None:
                weight.grad.zero_()


def make_dry_update(
    trainer: Any,
    settings: TrainConfig,
    read: Callable[[Path], Dataset],
    folder: Path,
    lengths: tuple[int, int],
) -> float:
    """Make a dry update and return the GiB of GPU memory that it took at its peak, 0 on a CPU.

    Args:
        trainer: a trainer of transformers that has no optimizer yet.
        read: makes the data set of an update from a file of selected rows.
        folder: a folder for that file.
        lengths: tokens of a prompt and of a response.

    Raises:
        InputError: there is not enough GPU memory for it.
    """
    on_gpu = torch.cuda.is_initialized()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    ranks = trainer.accelerator.num_processes
    with _memory_as_input_error(settings, ranks, sum(lengths)), _dry(trainer):
        data = read(_write_stand_in(folder, *lengths))
        trainer.train_dataset = _longest_of(data, trainer.args, ranks)
        trainer.begin()
        with forward_unwrapped(trainer.model):
            trainer.train()
    if not on_gpu:
        return 0.0
    torch.cuda.empty_cache()
    return torch.cuda.max_memory_reserved() / 2**30


def _write_stand_in(folder: Path, prompt: int, response: int) -> Path:
    """Write a file of one selected row with a rejected response, and no rows to mix in.

    Both responses have `response` tokens. Return the file's path.
    """
    ids = [0] * response
    row = SelectedRow(
        id="longest", sample=0, prompt=None, response="", score=None, finish_reason=None,
        policy_version=None, prompt_token_ids=[0] * prompt, token_ids=ids,
        rejected=Rejected("", None, 0, ids),
    )  # fmt: skip
    write_rows(folder / MIXED, [])
    path = folder / "longest.jsonl"
    write_rows(path, [row.to_json()])
    return path


def _longest_of(data: Dataset, args: Any, ranks: int) -> Dataset:
    """Return copies of the longest row, for one step of at most two passes on all ranks."""
    rows: list[Any] = list(data)
    sizes = [sum(len(one) for one in row.values() if isinstance(one, list)) for row in rows]
    passes = min(_PASSES, args.gradient_accumulation_steps)
    count = args.per_device_train_batch_size * ranks * passes
    return data.select([sizes.index(max(sizes))] * count)


@contextlib.contextmanager
def _dry(trainer: Any) -> Generator[None]:
    """Keep updates in the context from changing anything; the trainer has no optimizer yet."""
    args, hold = trainer.args, _NoGradients()
    told = args.learning_rate, args.num_train_epochs
    args.learning_rate, args.num_train_epochs = 0.0, _STEPS
    trainer.add_callback(hold)
    python, drawn = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    was_training = trainer.model.training
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(drawn)
        trainer.remove_callback(hold)
        args.learning_rate, args.num_train_epochs = told
        trainer.optimizer = None
        trainer.accelerator.free_memory()
        trainer.model.zero_grad(set_to_none=True)
        trainer.model.train(was_training)


@contextlib.contextmanager
def _memory_as_input_error(settings: TrainConfig, workers: int, tokens: int) -> Generator[None]:
    """Raise torch's OutOfMemoryError as an InputError that names settings to save memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        rows = settings.rows_per_forward(workers)
        said = one_line(error).partition(" See documentation")[0].partition(" If reserved")[0]
        lighter = [name for name, _ in settings.lighter(workers)]
        if settings.lora is None and not settings.fsdp:
            lighter.append("train.fsdp: true with more cluster.trainer_workers")
        length = "prompts.max_tokens or sampling.max_new_tokens"
        length = "train.max_length" if settings.packing != "none" else length
        raise InputError(
            "train",
            f"an update does not fit the memory: a forward pass over {rows} rows of {tokens} "
            f"tokens, as long as they may be, ended with {said}",
            f"set {', or '.join(lighter)}; or lower {length}" if lighter else f"lower {length}",
        ) from error
