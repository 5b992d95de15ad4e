"""The trainer of the updates: TRL's SFTTrainer kept alive from iteration to iteration.

What is particular to an update is its loss (`raft.updates.objective`), the weights of its rows
(`raft.updates.weighted`, `reinforce`) or, for pairs, TRL's other trainer (`raft.updates.dpo`).

Rows come in as token ids (TRL would append an end of text to text rows, even to samples that were
cut). One trainer lives as long as the run: a second one on the same model would wrap `forward`
again, and the published RAFT keeps Adam's moments from iteration to iteration.

An update depends on the checkpoint, the rows and the seed alone: the order of the rows is ours
(`raft.updates.rows.training_order`), and every random number generator is seeded anew.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from raft.config.train import TrainConfig
from raft.updates.optimizer import OptimizerFiles
from raft.updates.policy import (
    OwnSettings,
    attend_by_rows,
    check_rows_stay_apart,
    forward_unwrapped,
    free_cached,
    gather_weights,
    load_policy,
    move_optimizer,
    reduce_in_float32,
    save_policy,
    shards_restored,
    training_arguments,
    weights_dtype,
)
from raft.updates.reference import other_policy, put_start, row_log_probs
from raft.updates.rows import (
    MIXED,
    TrainingRow,
    make_dataset,
    of_mean_one,
    sft_rows,
    undrawn,
    with_log_probs,
)
from raft.updates.trainer import METRICS_FILE, Update, rendezvous_address, set_torchrun_env
from rollout.engines.environment import exempt_from_collection
from rollout.engines.vllm_transfer import send_weights, sent_tensors, shared_chunks
from rollout.types import InputError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from rollout.engines.transfer import SentTensors, SharedChunk, Transfer


class SFT:
    """One rank of the trainer; with `world_size` > 1 the ranks share each optimizer step.

    Several ranks make the same update as one, to rounding (and but for dropout, which each draws
    for its own rows). They load the model in `join`, a single rank at once.
    """

    _trainer: Any  # SFTTrainer, whose model and optimizer may be None by its types
    _tokenizer: PreTrainedTokenizerBase
    _drawn_by: str | None = None
    _shared: Iterator[SharedChunk] = iter(())

    def __init__(
        self,
        model: str,
        settings: TrainConfig,
        *,
        checkpoint: str | None = None,
        threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._on_gpu = torch.cuda.is_available()
        self._start = model
        self._checkpoint = checkpoint
        self._rank = rank
        self._world_size = world_size
        self._settings = settings
        settings.check(self._on_gpu, world_size)
        if world_size == 1:
            self._build()

    def rendezvous(self) -> tuple[str, int]:
        """Return the address and port at which rank 0 waits for the others."""
        return rendezvous_address()

    def join(self, host: str, port: int) -> None:
        """Meet the other ranks at rank 0's address, load the model; return when all are there."""
        set_torchrun_env(host, port, self._rank, self._world_size)
        self._build()

    def train(self, update: Update) -> dict[str, float | int]:
        from transformers import set_seed

        start = time.monotonic()
        settings, trainer, seed = self._settings, self._trainer, update.seed
        self._drawn_by = update.drawn_by
        self._files.load(trainer)
        trainer.train_dataset, counts = self._data(Path(update.rows), seed)
        if settings.start_from == "start":
            set_seed(seed % 2**31)
            put_start(trainer, self._start, self._dtype, settings.lora is not None)
        if settings.fresh:
            trainer.optimizer = None
        trainer.model.train()
        set_seed((seed + self._rank) % 2**31)  # dropout
        trainer.begin()
        with forward_unwrapped(trainer.model):
            output = trainer.train()
        loss = self._mean_over_ranks(output.training_loss)
        self._check_finite(loss)
        if settings.fsdp:
            self._files.know(trainer.model)
        metrics = {
            "train/loss": loss,
            "train/steps": output.global_step,
            **counts,
            **trainer.measured(),
            "train/seconds": time.monotonic() - start,
        }
        saving = time.monotonic()
        if update.out_dir is not None:
            self._save(Path(update.out_dir), metrics, update.whole and not settings.fresh)
        return {**metrics, "train/save_seconds": time.monotonic() - saving}

    def store(self, checkpoint: str) -> None:
        if not self._settings.fresh:
            self._files.write(self._trainer, checkpoint)

    def rehearse(self, prompt: int, response: int) -> float:
        from raft.updates.rehearsal import make_dry_update

        if self._trainer.optimizer is not None:  # an update has been made again after a restart
            return 0.0
        return make_dry_update(
            self._trainer, self._settings, lambda path: self._data(path, 0)[0],
            Path(self._scratch.name), (prompt, response),
        )  # fmt: skip

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        import torch

        model = self._trainer.model
        was_training = model.training
        model.eval()
        autocast = torch.autocast("cuda", torch.bfloat16, self._autocast)
        # no inference_mode: shards are gathered in place
        with torch.no_grad(), autocast, shards_restored(model):
            ids = torch.tensor([list(token_ids)], device=model.device)
            logits = model(input_ids=ids).logits[0, :-1].float()
        model.train(was_training)
        wanted = ids[0, 1:, None].to(logits.device)  # weights may rest elsewhere
        return logits.log_softmax(-1).gather(-1, wanted)[:, 0].tolist()

    def tensors(self, dtype: str) -> SentTensors:
        return sent_tensors(self._trainer.model, dtype)

    def send(self, to: Transfer, dtype: str) -> None:
        send_weights(self._trainer.model, dtype, self._rank, to)

    def share(self, dtype: str, first: bool) -> SharedChunk | None:
        if first:
            self._shared = shared_chunks(self._trainer.model, dtype)
        return next(self._shared, None)

    def dtype(self) -> str:
        kept = str(weights_dtype(self._settings, self._on_gpu)).removeprefix("torch.")
        return "bfloat16" if self._autocast else kept

    def sleep(self) -> None:
        self._shared = iter(())
        self._move("cpu")

    def wake(self) -> None:
        self._move("cuda")

    def _build(self) -> None:
        from transformers import AutoTokenizer, PrinterCallback
        from trl.trainer.utils import disable_dropout_in_model

        source = self._checkpoint or self._start
        self._tokenizer = AutoTokenizer.from_pretrained(source)
        self._scratch = tempfile.TemporaryDirectory(prefix="raft-trainer-")
        self._dtype = weights_dtype(self._settings, self._on_gpu)
        model = load_policy(self._start, self._checkpoint, self._dtype, self._settings.lora)
        if self._settings.packing == "bfd":
            attend_by_rows(model)
            check_rows_stay_apart(model, source)
        self._own = OwnSettings(model)
        if self._settings.compares:  # dropout would change the ratio of two policies
            disable_dropout_in_model(model)
        common = {
            "output_dir": self._scratch.name,
            **training_arguments(self._settings, self._on_gpu, self._world_size),
            "bf16": self._autocast,
            "max_length": None,
            "remove_unused_columns": False,
            "save_strategy": "no",
            "logging_strategy": "no",
            "logging_nan_inf_filter": False,  # it would replace a NaN by the mean of the others
            "report_to": [],
            "disable_tqdm": True,
            "ddp_find_unused_parameters": False,
        }
        # a copy, with a PAD token that is not the policy's: the collator pads, and labels hide it
        self._padded = AutoTokenizer.from_pretrained(source)
        self._padded.pad_token = self._padded.pad_token or self._padded.eos_token
        self._trainer = self._make(model, common)
        # it would print a summary of every update
        self._trainer.remove_callback(PrinterCallback)
        if self._settings.fsdp:
            reduce_in_float32(self._trainer.accelerator)
        begun = Path(self._checkpoint) if self._checkpoint and not self._settings.fresh else None
        self._files = OptimizerFiles(self._rank, self._world_size, self._settings.fsdp, begun)
        exempt_from_collection()

    def _make(self, model: Any, common: dict[str, Any]) -> Any:
        from raft.updates.objective import make_trainer

        return make_trainer(model, self._settings, common, self._padded)

    def _data(self, path: Path, seed: int) -> tuple[Dataset, dict[str, int]]:
        """Return the data set of an update, of selected and mixed-in rows, and its counts.

        The counts are metrics. The policy is the one before the update, with which rows are read.
        """
        settings = self._settings
        # blocks that are cut anyway take rows of any length
        limit = None if settings.packing == "wrapped" else settings.max_length
        rows = list(sft_rows(path, settings.loss_on, limit))
        if settings.update.kind == "weighted":
            rows = of_mean_one(rows)
        if settings.update.bounds:
            with self._policy(self._drawn_by) as model:
                rows = with_log_probs(rows, "drawn_log_probs", self._say(model, rows))
        if settings.kl:
            with self._policy(self._start) as model:
                rows = with_log_probs(rows, "start_log_probs", self._say(model, rows))
        mixed = []
        if settings.mix:
            mixed = list(sft_rows(path.with_name(MIXED), settings.loss_on, limit))
            rows += [undrawn(row, like=rows[0]) for row in mixed]
        return make_dataset(rows, settings, seed), {
            "train/tokens": sum(len(row["input_ids"]) for row in rows),
            # the first token of a row is never predicted
            "train/loss_tokens": sum(sum(x >= 0 for x in row["labels"][1:]) for row in rows),
            **({"train/mixed": len(mixed)} if mixed else {}),
        }

    def _say(self, model: Any, rows: Sequence[TrainingRow]) -> list[list[float]]:
        return row_log_probs(
            self._trainer.accelerator,
            model,
            rows,
            per_forward=self._settings.rows_per_forward(self._world_size),
            pad_token_id=cast(int, self._padded.pad_token_id),
            autocast=self._autocast,
        )

    def _policy(self, folder: str | None) -> contextlib.AbstractContextManager[Any]:
        """Return a context that holds the policy of a folder; without one, the trained policy."""
        import torch

        if folder is None:
            return contextlib.nullcontext(self._trainer.model)
        # it is in memory beside the trained policy, so in the precision of the arithmetic
        dtype = torch.bfloat16 if self._autocast else self._dtype
        beneath = self._settings.lora is not None and folder == self._start
        return other_policy(self._trainer, folder, dtype, beneath)

    @property
    def _autocast(self) -> bool:
        """Whether trained weights stay in float32 and the arithmetic runs in bfloat16."""
        return self._on_gpu and self._settings.dtype == "auto"

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
        weights = (p.to_local() if self._settings.fsdp else p for p in trainable)
        if not (math.isfinite(loss) and all(torch.isfinite(w).all() for w in weights)):
            raise InputError(
                "train.learning_rate",
                f"training diverged (loss {loss}, or weights that are no numbers)",
                "lower it (the last policy is kept)",
            )

    def _save(self, out: Path, metrics: dict[str, float | int], with_optimizer: bool) -> None:
        trainer = self._trainer
        state = None
        if self._settings.fsdp:
            state = gather_weights(trainer.model)
        if self._rank:
            return
        shutil.rmtree(out, ignore_errors=True)  # of an attempt that died
        out.mkdir(parents=True)
        model = trainer.accelerator.unwrap_model(trainer.model)
        with self._own.restored(model):
            save_policy(model, out, self._settings.lora is not None, state)
        self._tokenizer.save_pretrained(out)
        if with_optimizer:
            self._files.name(out)
        (out / METRICS_FILE).write_text(json.dumps(metrics))

    def _move(self, device: str) -> None:
        """Move weights and optimizer to or from the GPU, which rollouts need between updates."""
        if not self._on_gpu:
            return
        if not self._settings.fsdp_offload:  # else they rest in CPU memory anyway
            self._trainer.model.to(device)
            move_optimizer(self._trainer.optimizer, device)
        free_cached()
