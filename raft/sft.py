"""The SFT update: TRL's SFTTrainer kept alive from iteration to iteration.

Rows come in as token ids (TRL would append an end of text to text rows, even to samples that were
cut). One trainer lives as long as the run: a second one on the same model would wrap `forward`
again, and the published RAFT keeps Adam's moments from iteration to iteration.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raft.sft_rows import sft_rows
from raft.trainer import METRICS_FILE
from rollout.types import InputError

_OPTIMIZER_FILE = "optimizer.pt"
_ADAPTER = "adapter"


class SFT:
    """One rank of the trainer; with `world_size` > 1 the ranks share each optimizer step."""

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
        port: int | None = None,
    ) -> None:
        _join(rank, world_size, port)
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._on_gpu = torch.cuda.is_available()
        self._rank = rank
        self._loss_on = loss_on
        self._packing = packing
        self._max_length = max_length
        self._fresh = optimizer == "fresh"
        # weights stay in float32 and the arithmetic runs in bfloat16: steps of 1e-5 would vanish
        # in bfloat16 weights
        self._dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self._autocast = self._on_gpu and dtype == "auto"
        self._start = model
        self._lora = lora
        per_step = micro_batch_size or batch_size // world_size
        if per_step * world_size > batch_size or batch_size % (per_step * world_size):
            raise InputError(
                f"train.batch_size: {batch_size} is no multiple of micro_batch_size {per_step} × "
                f"{world_size} trainers"
            )
        self._settings = {
            "learning_rate": learning_rate,
            "num_train_epochs": epochs,
            "per_device_train_batch_size": per_step,
            "gradient_accumulation_steps": batch_size // (per_step * world_size),
            "lr_scheduler_type": schedule,
            "warmup_steps": warmup_steps,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
            "gradient_checkpointing": gradient_checkpointing,
        }
        if fsdp:
            self._settings |= {"fsdp": "full_shard", "fsdp_config": {"version": 2}}
        self._fsdp = fsdp
        self._trainer = self._build(checkpoint)

    def train(self, rows_path: str, out_dir: str, seed: int) -> dict[str, Any]:
        from datasets import Dataset

        start = time.monotonic()
        rows = list(sft_rows(rows_path, self._loss_on, self._max_length))
        data = Dataset.from_list(rows)
        if self._packing != "none":
            data = self._pack(data)
        trainer = self._trainer
        trainer.train_dataset = data
        trainer.args.seed = trainer.args.data_seed = seed % 2**31
        trainer.lr_scheduler = None
        if self._fresh:
            trainer.optimizer = None
        trainer.model.train()
        output = trainer.train()
        if not output.training_loss == output.training_loss:
            raise InputError(
                "train.learning_rate: the training loss is NaN; lower it (the last policy is kept)"
            )
        metrics = {
            "train/loss": output.training_loss,
            "train/steps": output.global_step,
            "train/tokens": sum(len(row["input_ids"]) for row in rows),
            "train/loss_tokens": sum(sum(x >= 0 for x in row["labels"]) for row in rows),
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
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, self._autocast):
            ids = torch.tensor([list(token_ids)], device=model.device)
            logits = model(input_ids=ids).logits[0, :-1].float()
        model.train(was_training)
        return logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].tolist()

    def sleep(self) -> None:
        self._move("cpu")

    def wake(self) -> None:
        self._move("cuda")

    def _build(self, checkpoint: str | None) -> Any:
        from transformers import AutoTokenizer
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        source = checkpoint or self._start
        self._tokenizer = AutoTokenizer.from_pretrained(source)
        arguments = SFTConfig(
            output_dir=tempfile.mkdtemp(prefix="raft-trainer-"),
            **self._settings,  # type: ignore[arg-type]
            use_cpu=not self._on_gpu,
            bf16=self._autocast,
            max_length=None,
            packing=False,  # done by us, on rows that are labelled already
            padding_free=self._packing == "bfd",
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=self._on_gpu,
            ddp_find_unused_parameters=False,
        )
        trainer = SFTTrainer(
            model=self._load(checkpoint),
            args=arguments,
            train_dataset=_placeholder(),
            processing_class=_with_pad(self._tokenizer),
        )
        # the printer of a finished run's summary speaks to a terminal that is not ours
        from transformers import PrinterCallback

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

    def _pack(self, data: Any) -> Any:
        from trl.data_utils import pack_dataset

        if self._max_length is None:
            raise InputError("train.packing: packing needs train.max_length, the length of a block")
        return pack_dataset(data, seq_length=self._max_length, strategy=self._packing)

    def _save(self, out: Path, metrics: dict[str, Any]) -> None:
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        # every rank takes part in gathering; the first one writes
        state = (
            self._trainer.accelerator.get_state_dict(self._trainer.model) if self._fsdp else None
        )
        if self._rank:
            return
        out.mkdir(parents=True)
        if self._lora:
            model.save_pretrained(out / _ADAPTER)
            base = model.get_base_model()
            base.save_pretrained(out, state_dict=merged_state(model))
        else:
            model.save_pretrained(out, state_dict=state)
        self._tokenizer.save_pretrained(out)
        if not self._fresh and not self._fsdp:
            import torch

            torch.save(self._trainer.optimizer.state_dict(), out / _OPTIMIZER_FILE)
        (out / METRICS_FILE).write_text(json.dumps(metrics))

    def _load_optimizer(self, trainer: Any, checkpoint: Path) -> None:
        import torch

        path = checkpoint / _OPTIMIZER_FILE
        if self._fsdp:
            return
        if not path.exists():
            raise InputError(
                f"{path}: missing, and train.optimizer is persistent; restore it or set "
                "train.optimizer=fresh in a new run"
            )
        trainer.create_optimizer()
        trainer.optimizer.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))

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


def _join(rank: int, world_size: int, port: int | None) -> None:
    """What torch.distributed reads; every rank sees one device of its own."""
    if world_size > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }


def _placeholder() -> Any:
    """SFTTrainer wants a dataset at birth; the real rows come with every update."""
    from datasets import Dataset

    return Dataset.from_list([{"input_ids": [0], "labels": [0]}])


def _with_pad(tokenizer: Any) -> Any:
    # only the collator pads with it, and labels hide it
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
