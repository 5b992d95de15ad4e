"""The update `dpo`: the better response against the worse, by TRL's DPOTrainer on token ids.

The loss of a pair is −log σ(β · ((c − c_ref) − (r − r_ref))) of the responses' log-probabilities
(Rafailov et al. 2023, arXiv 2305.18290). The reference is the policy before the update or the
starting one. Its log-probabilities are computed before the update, so no second model is in memory
during it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from raft.config.updates import DpoUpdate
from raft.updates.objective import Measured
from raft.updates.rows import IGNORED, PairRow, TrainingRow, in_order, pair_rows
from raft.updates.sft import SFT

if TYPE_CHECKING:
    from torch import Tensor

_SILENT = {"prompt_ids": [0], "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0}


class PairTrainer(Measured, DPOTrainer):
    """TRL's DPOTrainer, on pairs of token ids with the reference's log-probabilities.

    The loss of an optimizer step is the mean over its pairs. Pairs without responses fill batches
    up: the loss of each is log 2 whatever the policy, and is subtracted again.
    """

    loss_is_scaled_for_ga = True

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        mean: Tensor = super().compute_loss(model, inputs)
        mask = inputs["completion_mask"]
        real, held = _pairs(mask), len(mask) // 2
        total = mean * held - (held - real) * math.log(2)
        told = {key: torch.tensor(values[-1]) for key, values in self._metrics["train"].items()}
        tokens = mask[:, 1:].sum()
        self.add("entropy", told["entropy"] * tokens, tokens)
        # of a pair without responses both are 0
        self.add("pair_accuracy", told["rewards/accuracies"] * held, real)
        self.add("pair_margin", told["rewards/margins"] * held, real)
        count = torch.as_tensor(num_items_in_batch).clamp(min=1)
        return total / count * self.accelerator.num_processes

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        """Return the number of pairs in an optimizer step, over all ranks."""
        own = sum(_pairs(batch["completion_mask"]) for batch in batch_samples)
        return self.accelerator.reduce(torch.as_tensor(own).to(device), reduction="sum")

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset  # token ids already, to which nothing is added

    def _precompute_ref_logps(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset  # its rows have them


class DPO(SFT):
    """One rank of the trainer on pairs."""

    def _make(self, model: Any, common: dict[str, Any]) -> PairTrainer:
        update = self._settings.update
        assert isinstance(update, DpoUpdate), "build_trainer looks"
        silent = {**_SILENT, "chosen_ids": [0], "rejected_ids": [0]}
        made = PairTrainer(
            model=model,
            args=DPOConfig(**common, beta=update.beta, precompute_ref_log_probs=True),
            train_dataset=Dataset.from_list([silent]),
            processing_class=self._padded,
        )
        if self._settings.lora:  # TRL's reference, which is not used: rows have its values
            model.delete_adapter("ref")
        return made

    def _data(self, path: Path, seed: int) -> tuple[Dataset, dict[str, int]]:
        settings = self._settings
        assert isinstance(settings.update, DpoUpdate), "build_trainer looks"
        pairs = list(pair_rows(path, settings.max_length))
        # a response stands in several pairs, and is read once
        sides = {(*pair["prompt_ids"], -1, *pair[side]): _row(pair, side)
                 for side in ("chosen_ids", "rejected_ids") for pair in pairs}  # fmt: skip
        rows = list(sides.values())
        if settings.update.reference == "start":
            with self._policy(self._start) as model:
                said = self._say(model, rows)
        else:
            said = self._say(self._trainer.model, rows)
        total = {key: math.fsum(own) for key, own in zip(sides, said, strict=True)}
        data = [
            {
                **pair,
                "ref_chosen_logps": total[*pair["prompt_ids"], -1, *pair["chosen_ids"]],
                "ref_rejected_logps": total[*pair["prompt_ids"], -1, *pair["rejected_ids"]],
            }
            for pair in pairs
        ]
        both = [[len(pair["chosen_ids"]), len(pair["rejected_ids"])] for pair in pairs]
        prompts = [len(pair["prompt_ids"]) for pair in pairs]
        return in_order(Dataset.from_list(data), _SILENT, settings, seed), {
            "train/pairs": len(pairs),
            "train/tokens": 2 * sum(prompts) + sum(map(sum, both)),
            "train/loss_tokens": sum(map(sum, both)),
        }


def _row(pair: PairRow, side: Any) -> TrainingRow:
    prompt, response = pair["prompt_ids"], pair[side]
    return {
        "input_ids": [*prompt, *response],
        "labels": [*[IGNORED] * len(prompt), *response],
    }


def _pairs(completion_mask: Tensor) -> Tensor:
    """Return how many pairs of a batch have responses, (). `completion_mask` is (2 × pairs, T).

    Its first half are the better responses, its second the worse.
    """
    return completion_mask[: len(completion_mask) // 2].any(1).sum()
