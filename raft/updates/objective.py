"""The loss of the updates sft, weighted, raft_plus_plus and reinforce: one family, one formula.

Of a trained token of log-probability l, in a response that counts w (1 in sft, raft_plus_plus):

    −w · l                                           sft, weighted
    −min(w · r, w · clip(r)),  r = exp(l − l_drawn)  raft_plus_plus, reinforce
    + kl · (exp(d) − d − 1),   d = l_start − l       with train.kl (Schulman's k3)

An optimizer step takes the mean over its tokens, whichever ranks and micro-batches hold them. At
r = 1 the ratio has the gradient of the likelihood. Tokens that no policy drew (`train.mix`) have
NaN as l_drawn and l_start. Their own l is used in place of both, so that they are learned by
likelihood and without a KL penalty.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from raft.config.train import TrainConfig

__all__ = ["Measured", "RatioTrainer", "make_trainer", "token_losses"]

_LOG_PROBS = ("drawn_log_probs", "start_log_probs")
Tensor = torch.Tensor


def k3(log_ratio: Tensor) -> Tensor:
    """Return exp(d) − d − 1 with d = log q/p: an estimate of KL(p ‖ q) by samples of p.

    It is unbiased and never negative (Schulman's k3).
    """
    return log_ratio.exp() - log_ratio - 1


def token_losses(
    log_probs: Tensor,
    weight: Tensor | float,
    drawn: Tensor | None,
    start: Tensor | None,
    bounds: tuple[float, float],
    kl: float,
) -> Tensor:
    """Return the loss of each token, (N, T); `weight` is a number or (N, 1), the others (N, T).

    Where `drawn` is None it is the likelihood's loss; where `start` is None there is no KL penalty.
    """
    if drawn is None:
        losses = -weight * log_probs
    else:
        ratio = (log_probs - drawn).exp()
        losses = -torch.minimum(ratio * weight, ratio.clamp(*bounds) * weight)
    return losses if start is None else losses + kl * k3(start - log_probs)


class Collator(DataCollatorForLanguageModeling):
    """TRL's collator, which also puts the rows' weights and log-probabilities into the batch."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        if "weight" in examples[0]:
            batch["weight"] = torch.tensor([[row["weight"]] for row in examples])
        for name in _LOG_PROBS:
            if name in examples[0]:
                rows = [torch.tensor(row[name], dtype=torch.float32) for row in examples]
                batch[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return batch


class Measured:
    """A mixin of trainers that sums what an update measures on the device, and at its end averages
    it over all ranks."""

    accelerator: Any

    def begin(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._norms: list[Tensor] = []
        self._metrics: dict[str, Any] = {"train": defaultdict(list), "eval": defaultdict(list)}

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        """Add to a metric a `total` over `count` tokens or pairs of this rank; both are scalars."""
        before = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (before[0] + total.detach().double(), before[1] + count.double())

    def measured(self) -> dict[str, float]:
        """Return the means since `begin`, by metric; every rank must call this."""
        found = {"train/grad_norm": float(torch.stack(self._norms).mean())}
        if self._sums:
            own = torch.stack([torch.stack(pair) for pair in self._sums.values()])
            sums = self.accelerator.reduce(own, reduction="sum").tolist()
            for name, (total, count) in zip(self._sums, sums, strict=True):
                if count:
                    found[f"train/{name}"] = total / count
        return found

    def _clip_grad_norm(self, model: torch.nn.Module) -> Tensor:
        norm: Tensor = super()._clip_grad_norm(model)  # type: ignore[misc]
        whole = getattr(norm, "full_tensor", lambda: norm)()  # of shards
        self._norms.append(whole.detach().float())
        return norm


class RatioTrainer(Measured, SFTTrainer):
    """TRL's SFTTrainer with the loss of this module."""

    loss_is_scaled_for_ga = True
    bounds: tuple[float, float]
    kl: float

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        weight = inputs.pop("weight", 1.0)
        drawn, start = (inputs.pop(name, None) for name in _LOG_PROBS)
        if self.aux_loss_enabled:  # of a mixture of experts
            inputs["output_router_logits"] = True
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        log_probs, mask = outputs.log_probs, outputs.label_mask
        own = log_probs.detach()
        drawn_or_own, start_or_own = (
            None if other is None else torch.where(other.isnan(), own, other)
            for other in (drawn, start)
        )
        losses = token_losses(
            log_probs, weight, drawn_or_own, start_or_own, self.bounds, self.kl
        ).masked_fill(~mask, 0)
        # gradients are averaged over ranks, and the count is of all of them
        count = torch.as_tensor(num_items_in_batch).clamp(min=1)
        loss = losses.sum() / count * self.accelerator.num_processes
        if self.aux_loss_enabled:
            steps = self.current_gradient_accumulation_steps
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps
        self._measure(outputs, own, weight, drawn, start)
        return loss

    def _measure(
        self,
        outputs: Any,
        own: Tensor,
        weight: Tensor | float,
        drawn: Tensor | None,
        start: Tensor | None,
    ) -> None:
        mask = outputs.label_mask
        self.add("entropy", outputs.entropy.sum(), mask.sum())
        for name, other in (("drawn", drawn), ("start", start)):
            if other is None:
                continue
            known = mask & ~other.isnan()
            log_ratio = torch.where(known, own - other, 0)
            if name == "start":
                self.add("kl_start", k3(-log_ratio).sum(), known.sum())
                continue
            ratio = log_ratio.exp()
            clipped = known & (ratio.clamp(*self.bounds) * weight < ratio * weight)
            self.add("ratio_mean", torch.where(known, ratio, 0).sum(), known.sum())
            self.add("clip_share", clipped.sum(), known.sum())
            self.add("kl_drawn", k3(log_ratio).sum(), known.sum())

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        """Return the number of trained tokens in an optimizer step, over all ranks."""
        own = sum(batch["labels"][..., 1:].ne(-100).sum() for batch in batch_samples)
        return self.accelerator.reduce(torch.as_tensor(own).to(device), reduction="sum")


def make_trainer(
    model: Any, settings: TrainConfig, common: dict[str, Any], tokenizer: Any
) -> RatioTrainer:
    """Return the trainer, on a placeholder data set that every update replaces by its rows."""
    made = RatioTrainer(
        model=model,
        args=SFTConfig(
            **common,
            packing=False,  # done by us, on rows that are labelled already
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_list([{"input_ids": [0], "labels": [0]}]),
        processing_class=tokenizer,
    )
    made.data_collator = Collator(**vars(made.data_collator))
    made.bounds, made.kl = settings.update.bounds or (0.0, float("inf")), settings.kl
    return made
