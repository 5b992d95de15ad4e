"""Run the training loop: transformers' Trainer, whose batches are whole optimizer steps.

The Trainer provides schedules, clipping, mixed precision, optimizers by name, and checkpoints with
every random state. TRL's RewardTrainer is not used: it takes rewards from
`*ForSequenceClassification` at the last token that is no PAD, in the model's precision; it cuts
batches by number of rows; and it divides the loss by the number of batches, which is wrong where
these have unequal sizes. Here a batch of the data loader holds all of a step's examples:
`training_step` cuts it under the token budget and divides sums by the step's whole weight. With
several processes each takes its share of the step and gradients are summed explicitly, because the
wrapper that the Trainer puts around the model would need equally many passes in each process. A
sharded model does need them: there a process with fewer batches runs more, without effect.

A checkpoint is marked once it is whole; `latest_checkpoint` finds where killed trainings continue.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import (
    PrinterCallback,
    ProgressCallback,
    TrainerControl,
    TrainerState,
)
from transformers.training_args import OptimizerNames

from rewards.training import distributed
from rewards.training.examples import Example, micro_batches, training_steps
from rewards.training.losses import Objective, Outcome
from rewards.training.settings import Layout, TrainingSettings
from rollout.types import InputError

__all__ = [
    "MarkComplete",
    "Metrics",
    "OnMetrics",
    "StepTrainer",
    "computes_in_bfloat16",
    "latest_checkpoint",
    "step_of",
]

log = logging.getLogger("rewards")

_MARK = "complete.json"
_Item = TypeVar("_Item")


class MarkComplete(TrainerCallback):
    """A callback that leaves a mark in each checkpoint once all of it is written."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **others: object,
    ) -> None:
        distributed.barrier()  # each has a random state to write
        if not distributed.is_first():
            return
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        (folder / _MARK).write_text(json.dumps({"step": state.global_step}))


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the last whole checkpoint, None without one; delete those left half written."""
    found = sorted(folder.glob("checkpoint-*"), key=step_of)
    for half in (path for path in found if not (path / _MARK).exists()):
        log.warning("%s was not finished: deleted", half)
        shutil.rmtree(half, ignore_errors=True)
    return next((path for path in reversed(found) if path.exists()), None)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


Metrics = dict[str, float]
Values = dict[str, torch.Tensor]
OnMetrics = Callable[[int, Metrics], None]
# on a CPU 2,048 is a third faster than 4,096: `experiments.bench.reward_training`
_MICRO_TOKENS = {"cuda": 16384, "cpu": 2048}


class StepTrainer(Trainer):
    """A trainer of `model` on `examples` that evaluates `held_out` now and then.

    Args:
        folder: for checkpoints.
        on_metrics: called with (step, values) at every log and every evaluation.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        settings: TrainingSettings,
        *,
        layout: Layout,
        folder: Path,
        on_metrics: OnMetrics,
    ) -> None:
        steps = training_steps(len(examples), settings.batch_size, settings.epochs, settings.seed)
        arguments = _arguments(settings, len(steps), folder)
        self._begin_with(model, arguments.bf16)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=_Steps(examples, steps),  # type: ignore[arg-type]
            eval_dataset=_Steps(held_out, []),  # type: ignore[arg-type]
            data_collator=_only,
            callbacks=[MarkComplete()],
        )
        # gradients are summed here, on the bare model: its DDP would hold them twice
        prepare: Any = self.accelerator.prepare_model
        self.accelerator.prepare_model = partial(prepare, evaluation_mode=True)
        for printer in (PrinterCallback, ProgressCallback):
            self.remove_callback(printer)
        self.objective, self.held_out = objective, held_out
        self._optimizer = settings.optimizer
        self.layout: Layout = layout
        self.on_metrics = on_metrics
        device = self.args.device.type
        self.budget = settings.micro_tokens or _MICRO_TOKENS.get(device, _MICRO_TOKENS["cpu"])
        self._tokens, self._seconds = 0, 0.0
        self._judged: tuple[int, Values, Metrics] | None = None

    @property
    def _module(self) -> nn.Module:
        assert self.model is not None
        return self.model

    def get_train_dataloader(self) -> DataLoader:
        """Return the steps, one per item, in order; the Trainer skips those already taken."""
        return DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=_only)  # type: ignore[arg-type]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer. Raises `InputError` where its package is not installed."""
        try:
            return super().create_optimizer(model)
        except ImportError as error:
            raise InputError(
                "train.optimizer",
                f"{self._optimizer} is not to be had here ({' '.join(str(error).split())})",
                "install it, or use adamw_torch",
            ) from error

    def training_step(
        self, model: nn.Module, inputs: Sequence[Example], num_items_in_batch: object = None
    ) -> torch.Tensor:
        """Run forward and backward over a whole step; return its loss / weight, detached."""
        begin = time.monotonic()
        model.train()
        weight = sum(map(self.objective.weight, inputs))
        while True:
            try:
                loss = self._accumulate(inputs, weight)
                break
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                # nothing has been updated yet: the step is taken again in smaller pieces
                self._halve_budget(distributed.shard(inputs), error)
        self._sum_gradients()
        loss = distributed.summed(loss)
        self._tokens += sum(example.tokens for example in inputs)
        self._seconds += time.monotonic() - begin
        return loss

    def evaluate(self, *arguments: object, **settings: object) -> Metrics:
        """Evaluate the held-out examples, as the Trainer calls it."""
        return {name.replace("/", "_"): value for name, value in self.judged()[1].items()}

    def judged(self) -> tuple[Values, Metrics]:
        """Return values of the held-out examples under this step's weights, and `eval/…` metrics of
        them; both are computed and reported once a step."""
        if not self.held_out:
            return {}, {}
        if self._judged is None or self._judged[0] != self.state.global_step:
            values = self.values(self.held_out)
            self._judged = self.state.global_step, values, self.objective.judge(values)
            self._tell(self._judged[2])
        return self._judged[1:]

    def values(self, examples: Sequence[Example]) -> Values:
        """Return the objective's values of the examples in eval mode, (N,) on the CPU, in order."""
        was_training = self._module.training
        self._module.eval()
        own = distributed.shard(examples)
        place = {id(example): number for number, example in enumerate(own)}
        found: list[Values] = [{} for _ in own]
        for batch, counts in self._batches(examples):
            with torch.no_grad():
                values = self._outcome(batch).values
            for name, value_P in values.items() if counts else ():
                for example, value in zip(batch, value_P.float().cpu(), strict=True):
                    found[place[id(example)]][name] = value
        self._module.train(was_training)
        whole = distributed.all_gather(found)
        return {name: torch.stack([one[name] for one in whole]) for name in whole[0]}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the Trainer's `logs` under our names. Raises `InputError` where the loss diverges."""
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise InputError(
                    "train.learning_rate",
                    f"training diverged at step {self.state.global_step} (loss {logs['loss']})",
                    "lower it",
                )
            rate = self._tokens / max(self._seconds, 1e-9)
            self._tokens, self._seconds = 0, 0.0
            names = ("loss", "learning_rate", "grad_norm")
            row = {f"train/{name}": float(logs[name]) for name in names if name in logs}
            self._tell({**row, "train/tokens_per_second": rate})
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: object) -> int:
        return 0  # the Trainer would look for tensors in our steps

    def _tell(self, values: Metrics) -> None:
        self.on_metrics(self.state.global_step, values)

    def _begin_with(self, model: nn.Module, in_bfloat16: bool) -> None:
        """Prepare the model before the Trainer moves it; the processes are connected by now."""

    def _batches(self, examples: Sequence[Example]) -> list[tuple[list[Example], bool]]:
        """Return this process's batches of the examples of all, and whether each counts."""
        own = micro_batches(distributed.shard(examples), self.budget, self.layout)
        return [(batch, True) for batch in own]

    def _outcome(self, batch: Sequence[Example]) -> Outcome:
        # accelerate's wrapper is around the whole model's call, and objectives call its parts
        with self.accelerator.autocast():
            return self.objective.run(self._module, batch)

    def _sum_gradients(self) -> None:
        distributed.sum_gradients(list(self._module.parameters()))

    def _accumulate(self, examples: Sequence[Example], weight: float) -> torch.Tensor:
        total = torch.zeros((), device=self.args.device)
        for batch, counts in self._batches(examples):
            loss = self._outcome(batch).loss / weight * counts
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _halve_budget(self, examples: Sequence[Example], error: BaseException) -> None:
        self._module.zero_grad()
        before = len(micro_batches(examples, self.budget, self.layout))
        if before == len(examples):
            raise InputError(
                "train.micro_tokens",
                f"out of memory on a single pair of {max(e.longest for e in examples)} tokens",
                "use a smaller max_length, lora, gradient_checkpointing or another dtype",
            ) from error
        while len(micro_batches(examples, self.budget, self.layout)) == before:
            self.budget //= 2
        log.warning("out of memory: going on with batches of %d tokens", self.budget)


class _Steps:
    """The examples of each step, in order."""

    def __init__(self, examples: Sequence[Example], steps: list[list[int]]) -> None:
        self._examples, self._steps = examples, steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, number: int) -> list[Example]:
        return [self._examples[index] for index in self._steps[number]]


def _only(items: list[_Item]) -> _Item:
    (item,) = items
    return item


def computes_in_bfloat16(settings: TrainingSettings) -> bool:
    """Return whether autocast computes in bfloat16, on weights that may be float32."""
    return torch.cuda.is_available() and settings.dtype == "auto"


def _arguments(settings: TrainingSettings, steps: int, folder: Path) -> TrainingArguments:
    names = [name.value for name in OptimizerNames]
    if settings.optimizer not in names:
        raise InputError(
            "train.optimizer",
            f"{settings.optimizer!r} is not known",
            "use adamw_torch, or another of transformers' names for `optim`",
        )
    on_gpu = torch.cuda.is_available()
    often = max(50, -(-steps // 10))
    made = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,  # one step
        num_train_epochs=1,  # the data set holds all epochs
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_ratio,  # a share below 1
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer,
        bf16=computes_in_bfloat16(settings),
        use_cpu=not on_gpu,
        ddp_backend=None if on_gpu or distributed.count() == 1 else "gloo",
        logging_steps=settings.log_steps or -(-steps // 200),
        logging_nan_inf_filter=False,  # it would replace a NaN by the mean of other losses
        eval_strategy="steps",
        eval_steps=settings.eval_steps or settings.save_steps or often,
        save_strategy="steps",
        save_steps=settings.save_steps or often,
        save_total_limit=2,
        seed=settings.seed % 2**31,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        log_level_replica="error",
    )
    made._n_gpu = min(made.n_gpu, 1)  # with more, each GPU would get a share of the rows
    return made


def _is_out_of_memory(error: BaseException) -> bool:
    # the CPU allocator raises a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
