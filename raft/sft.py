"""The SFT update: TRL's SFTTrainer kept alive from iteration to iteration.

Rows come in as token ids (TRL would append an end of text to text rows, even to samples that were
cut). One trainer lives as long as the run: a second one on the same model would wrap `forward`
again, and the published RAFT keeps Adam's moments from iteration to iteration.

An update depends on the checkpoint, the rows and the seed alone: the order of the rows is ours
(`raft.sft_rows.training_order`), and every random number generator is seeded anew.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raft.sft_rows import IGNORED, concatenate_and_cut, sft_rows, training_order
from raft.trainer import METRICS_FILE
from rollout.types import InputError

_OPTIMIZER_FILE = "optimizer.pt"
_ADAPTER = "adapter"


class SFT:
    """One rank of the trainer; with `world_size` > 1 the ranks share each optimizer step.

    Several ranks make the same update as one, to rounding (and but for dropout, which each draws
    for its own rows). `fsdp` shards weights and optimizer over GPUs; the tests here have no several
    GPUs, so that path has been read and not run.
    """

    def __init__(
        self,
        model: str,
        *,
        checkpoint: str | None = None,
        learning_rate: float = 2e-5,
        epochs: float = 1,
        batch_size: int = 16,
        micro_batch_size: int | None = None,
        loss_on: str = "response",
        optimizer: str = "persistent",
        schedule: str = "constant",
        warmup_steps: int = 0,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        max_length: int | None = None,
        packing: str = "none",
        gradient_checkpointing: bool = False,
        dtype: str = "auto",
        lora: dict[str, Any] | None = None,
        fsdp: bool = False,
        threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._on_gpu = torch.cuda.is_available()
        self._rank = rank
        self._loss_on = loss_on
        self._packing = packing
        self._max_length = max_length
        self._fresh = optimizer == "fresh"
        self._checkpoint = checkpoint
        self._world_size = world_size
        # weights stay in float32 and the arithmetic runs in bfloat16: steps of 1e-5 would vanish
        # in bfloat16 weights
        self._dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self._autocast = self._on_gpu and dtype == "auto"
        self._start = model
        self._lora = lora
        self._epochs = epochs
        self._batch_size = batch_size
        per_step = _rows_per_forward(batch_size, micro_batch_size, world_size)
        if packing == "bfd" and not self._on_gpu:
            raise InputError(
                "train.packing: bfd needs flash attention, so a GPU; use wrapped or none on a CPU"
            )
        self._settings = {
            "learning_rate": learning_rate,
            "per_device_train_batch_size": per_step,
            "gradient_accumulation_steps": batch_size // (per_step * world_size),
            "lr_scheduler_type": schedule,
            "warmup_steps": warmup_steps,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
            "gradient_checkpointing": gradient_checkpointing,
        }
        if fsdp:
            _check_fsdp(self._on_gpu, world_size, lora is not None)
            self._settings |= {"fsdp": True, "fsdp_config": {"version": 2}}
        self._fsdp = fsdp
        # several ranks are built when they `join`
        self._trainer = self._build(checkpoint) if world_size == 1 else None

    def rendezvous(self) -> tuple[str, int]:
        """An address and a free port of this machine, at which rank 0 waits for the others."""
        return _own_address(), _free_port()

    def join(self, host: str, port: int) -> None:
        """Meet the other ranks at rank 0's address; returns when all are there."""
        os.environ |= {
            "RANK": str(self._rank),
            "LOCAL_RANK": "0",  # every rank sees one device of its own
            "WORLD_SIZE": str(self._world_size),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
        }
        self._trainer = self._build(self._checkpoint)

    def train(self, rows_path: str, out_dir: str, seed: int) -> dict[str, Any]:
        from transformers import set_seed

        start = time.monotonic()
        # packing may cut what is too long for a block
        limit = None if self._packing == "wrapped" else self._max_length
        rows = list(sft_rows(rows_path, self._loss_on, limit))
        trainer = self._trainer
        trainer.train_dataset = self._dataset(rows, seed)
        trainer.args.num_train_epochs = 1  # the data set holds all of them, in order
        if self._fresh:
            trainer.optimizer = None
        trainer.model.train()
        set_seed((seed + self._rank) % 2**31)  # dropout
        with _forward_unwrapped(trainer.model):
            output = trainer.train()
        loss = self._mean_over_ranks(output.training_loss)
        self._check_finite(loss)
        metrics = {
            "train/loss": loss,
            "train/steps": output.global_step,
            "train/tokens": sum(len(row["input_ids"]) for row in rows),
            # the first token of a row is never predicted
            "train/loss_tokens": sum(sum(x >= 0 for x in row["labels"][1:]) for row in rows),
            "train/seconds": time.monotonic() - start,
        }
        saving = time.monotonic()
        self._save(Path(out_dir), metrics)
        return {**metrics, "train/save_seconds": time.monotonic() - saving}

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        import torch

        model = self._trainer.model
        was_training = model.training
        model.eval()
        # no inference_mode: sharded weights are gathered in place
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, self._autocast):
            ids = torch.tensor([list(token_ids)], device=model.device)
            logits = model(input_ids=ids).logits[0, :-1].float()
        model.train(was_training)
        return logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].tolist()

    def sleep(self) -> None:
        self._move("cpu")

    def wake(self) -> None:
        self._move("cuda")

    def _build(self, checkpoint: str | None) -> Any:
        from transformers import AutoTokenizer, PrinterCallback
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        source = checkpoint or self._start
        self._tokenizer = AutoTokenizer.from_pretrained(source)
        self._scratch = tempfile.TemporaryDirectory(prefix="raft-trainer-")
        arguments = SFTConfig(
            output_dir=self._scratch.name,
            **self._settings,  # type: ignore[arg-type]
            use_cpu=not self._on_gpu,
            bf16=self._autocast,
            max_length=None,
            packing=False,  # done by us, on rows that are labelled already
            padding_free=self._packing == "bfd",
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            train_sampling_strategy="sequential",
            save_strategy="no",
            logging_strategy="no",
            logging_nan_inf_filter=False,  # it would write the mean of the others over a NaN
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=self._on_gpu,
            ddp_find_unused_parameters=False,
        )
        model = self._load(checkpoint)
        self._own = _Own(model)
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=_placeholder(),
            # a copy: the trainer gives it a PAD token, which is not the policy's
            processing_class=_with_pad(AutoTokenizer.from_pretrained(source)),
        )
        # the printer of a finished run's summary speaks to a terminal that is not ours
        trainer.remove_callback(PrinterCallback)
        if checkpoint and not self._fresh:
            self._load_optimizer(trainer, Path(checkpoint))
        return trainer

    def _load(self, checkpoint: str | None) -> Any:
        from transformers import AutoModelForCausalLM

        source = self._start if self._lora else checkpoint or self._start
        model = AutoModelForCausalLM.from_pretrained(source, dtype=self._dtype)
        if not self._lora:
            return model
        from peft import LoraConfig, PeftModel, get_peft_model

        if checkpoint:
            return PeftModel.from_pretrained(model, Path(checkpoint) / _ADAPTER, is_trainable=True)
        own = {
            **self._lora,
            "lora_alpha": self._lora["alpha"],
            "lora_dropout": self._lora["dropout"],
        }
        settings = {k: v for k, v in own.items() if k not in ("alpha", "dropout")}
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))

    def _dataset(self, rows: list[dict[str, Any]], seed: int) -> Any:
        """All epochs in order. Every rank takes its share of each optimizer step's rows."""
        from datasets import Dataset

        if self._packing != "none" and self._max_length is None:
            raise InputError("train.packing: packing needs train.max_length, the length of a block")
        if self._packing == "wrapped":
            rows = concatenate_and_cut(rows, self._max_length or 0)
        # a row's first token is never predicted, but for GPT-2 the library would count it
        data = Dataset.from_list([{**row, "labels": [IGNORED, *row["labels"][1:]]} for row in rows])
        if self._packing == "bfd":
            from trl.data_utils import pack_dataset

            data = pack_dataset(data, seq_length=self._max_length or 0, strategy="bfd")
        silent = {"input_ids": [0], "labels": [IGNORED], "seq_lengths": [1]}
        filled = Dataset.from_list([*data, {key: silent[key] for key in data.column_names}])
        epochs = self._epochs
        return filled.select(training_order(len(data), self._batch_size, epochs, seed))

    def _mean_over_ranks(self, loss: float) -> float:
        if self._world_size == 1:
            return loss
        import torch

        accelerator = self._trainer.accelerator
        own = torch.tensor(loss, device=accelerator.device)
        return float(accelerator.reduce(own, reduction="mean"))

    def _check_finite(self, loss: float) -> None:
        import torch

        trainable = (p.detach() for p in self._trainer.model.parameters() if p.requires_grad)
        weights = (p.to_local() if self._fsdp else p for p in trainable)
        if not (math.isfinite(loss) and all(torch.isfinite(w).all() for w in weights)):
            raise InputError(
                f"train.learning_rate: training diverged (loss {loss}, or weights that are no "
                "numbers); lower it (the last policy is kept)"
            )

    def _save(self, out: Path, metrics: dict[str, Any]) -> None:
        trainer = self._trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        state, optimizer = self._gather() if self._fsdp else (None, None)
        if self._rank:
            return
        import torch

        shutil.rmtree(out, ignore_errors=True)  # of an attempt that died
        out.mkdir(parents=True)
        with self._own.settings(model):
            if self._lora:
                model.save_pretrained(out / _ADAPTER)
                model.get_base_model().save_pretrained(out, state_dict=merged_state(model))
            else:
                model.save_pretrained(out, state_dict=state)
        self._tokenizer.save_pretrained(out)
        if not self._fresh:
            torch.save(optimizer or trainer.optimizer.state_dict(), out / _OPTIMIZER_FILE)
        (out / METRICS_FILE).write_text(json.dumps(metrics))

    def _gather(self) -> tuple[Any, Any]:
        """Whole weights and optimizer state out of their shards; every rank takes part."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        optimizer = self._trainer.optimizer.optimizer
        return get_state_dict(self._trainer.model, optimizer, options=whole)

    def _load_optimizer(self, trainer: Any, checkpoint: Path) -> None:
        import torch

        path = checkpoint / _OPTIMIZER_FILE
        if not path.exists():
            raise InputError(
                f"{path}: missing, and train.optimizer is persistent; restore it or set "
                "train.optimizer=fresh in a new run"
            )
        state = torch.load(path, weights_only=True, map_location="cpu")
        if self._fsdp:
            trainer.add_callback(_shard_optimizer(state))
            return
        trainer.create_optimizer()
        trainer.optimizer.load_state_dict(state)

    def _move(self, device: str) -> None:
        """Weights and optimizer to or from the GPU that rollouts are about to need."""
        if not self._on_gpu:
            return
        import torch

        self._trainer.model.to(device)
        optimizer = self._trainer.optimizer
        for state in optimizer.state.values() if optimizer is not None else ():
            for key, value in state.items():
                if torch.is_tensor(value) and value.dim():
                    state[key] = value.to(device)
        torch.cuda.empty_cache()


def merged_state(model: Any) -> dict[str, Any]:
    """The weights W + ΔW of a peft model under their plain names; the model itself is untouched.

    Merging in place and back would leave rounding in the frozen weights, once per iteration.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    deltas: dict[str, Any] = {}
    for name, module in base.named_modules():
        if isinstance(module, BaseTunerLayer):
            deltas[f"{name}.weight"] = sum(
                module.get_delta_weight(adapter)  # type: ignore[operator]
                for adapter in module.active_adapters
            )
    merged: dict[str, Any] = {}
    for key, value in base.state_dict().items():
        if "lora_" in key:
            continue
        plain = key.replace(".base_layer.", ".")
        merged[plain] = value + deltas[plain] if plain in deltas else value
    return merged


class _Own:
    """A policy's own settings, which the trainer changes: its checkpoints keep them."""

    def __init__(self, model: Any) -> None:
        self._values = {
            (part, key): getattr(getattr(model, part), key, None)
            for part in ("config", "generation_config")
            for key in ("use_cache", "pad_token_id")
        }

    @contextlib.contextmanager
    def settings(self, model: Any) -> Iterator[None]:
        training = _Own(model)
        self._put(model)
        yield
        training._put(model)

    def _put(self, model: Any) -> None:
        for (part, key), value in self._values.items():
            setattr(getattr(model, part), key, value)


def _shard_optimizer(state: dict[str, Any]) -> Any:
    """Gives a stored optimizer state to the shards, which are there when training begins."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_optimizer_state_dict,
    )
    from transformers import TrainerCallback

    class Restore(TrainerCallback):
        pending = True

        def on_train_begin(self, args: Any, state_: Any, control: Any, **kwargs: Any) -> None:
            if self.pending:
                self.pending = False
                whole = StateDictOptions(full_state_dict=True)
                optimizer = kwargs["optimizer"].optimizer
                set_optimizer_state_dict(kwargs["model"], optimizer, state, options=whole)

    return Restore()


@contextlib.contextmanager
def _forward_unwrapped(model: Any) -> Iterator[None]:
    """Mixed precision wraps `forward` whenever training starts, a layer more every iteration."""
    before = model.__dict__.get("forward")
    yield
    if before is not None:
        model.forward = before
    else:
        model.__dict__.pop("forward", None)


def _check_fsdp(on_gpu: bool, world_size: int, lora: bool) -> None:
    if not on_gpu or world_size == 1:  # the library would train unsharded without a word
        raise InputError(
            "train.fsdp: shards over cluster.trainer_workers on GPUs, and here is "
            f"{'one trainer' if world_size == 1 else 'no GPU'}; set train.fsdp: false"
        )
    if lora:
        raise InputError("train.fsdp: does not go with train.lora; use one of them")


def _rows_per_forward(batch_size: int, micro_batch_size: int | None, world_size: int) -> int:
    per_step = micro_batch_size or max(1, batch_size // world_size)
    if batch_size % (per_step * world_size):
        raise InputError(
            f"train.batch_size: {batch_size} is no multiple of micro_batch_size {per_step} × "
            f"{world_size} trainers"
        )
    return per_step


def _own_address() -> str:
    """The address by which other machines reach this one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only looks up the route
            return probe.getsockname()[0]
        except OSError:  # no route but to itself
            return "127.0.0.1"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _placeholder() -> Any:
    """SFTTrainer wants a dataset at birth; the real rows come with every update."""
    from datasets import Dataset

    return Dataset.from_list([{"input_ids": [0], "labels": [0]}])


def _with_pad(tokenizer: Any) -> Any:
    # only the collator pads with it, and labels hide it
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
