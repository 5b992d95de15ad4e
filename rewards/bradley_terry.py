"""Training a Bradley-Terry reward model: P(chosen wins) = σ(score(chosen) − score(rejected)).

The model reads BOS, prompt, response, EOS, and is scored at the EOS. The saved tokenizer carries a
chat template that writes just these tokens, so that whoever renders conversations with it scores
what was trained.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.types import InputError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase
    from trl.trainer.reward_config import RewardConfig

__all__ = ["BradleyTerryReport", "train_bradley_terry"]

# plain continuation: no roles, nothing between prompt and response
CONTINUATION_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)


@dataclass(frozen=True)
class BradleyTerryReport:
    """How the training went. `accuracy` is the share of held-out pairs whose chosen side won."""

    accuracy: float
    loss: float
    pairs: int
    heldout_pairs: int
    too_long: int


def train_bradley_terry(
    base_model: str | Path,
    pairs: Sequence[Mapping[str, str]],
    out_dir: str | Path,
    *,
    learning_rate: float = 1e-3,
    epochs: float = 1,
    batch_size: int = 32,
    max_length: int = 512,
    heldout_share: float = 0.1,
    center: float = 0.01,
    seed: int = 0,
) -> BradleyTerryReport:
    """Train on `pairs` of {"prompt", "chosen", "rejected"} texts and save the model in `out_dir`.

    It starts from the backbone of the causal model in `base_model` under a new one-value head. The
    last `heldout_share` of the pairs is kept for the accuracy. Pairs of which a side is longer than
    `max_length` tokens are left out and counted, never cut. `center` draws scores to mean zero.
    """
    from transformers import AutoTokenizer, PrinterCallback
    from trl.trainer.reward_trainer import RewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    _check_tokenizer(tokenizer, base_model)
    rows = [_encode(tokenizer, pair) for pair in pairs]
    fitting = [row for row in rows if max(map(len, row.values())) <= max_length]
    train, heldout = _split(fitting, heldout_share)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = RewardTrainer(
            model=str(base_model),
            args=_training_arguments(scratch, learning_rate, epochs, batch_size, center, seed),
            train_dataset=_dataset(train),
            eval_dataset=_dataset(heldout),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        loss = trainer.train().training_loss
        accuracy = _accuracy(trainer, heldout, batch_size)
    _save(trainer.model, tokenizer, out_dir)
    return BradleyTerryReport(accuracy, loss, len(train), len(heldout), len(rows) - len(fitting))


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, base_model: str | Path) -> None:
    """Sequence classifiers find the last token as the last that is not PAD: EOS must not be PAD."""
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise InputError(
            f"{base_model}: a reward model needs an EOS and a PAD token that differ: "
            "set tokenizer.pad_token and save the tokenizer"
        )


def _encode(tokenizer: PreTrainedTokenizerBase, pair: Mapping[str, str]) -> dict[str, list[int]]:
    """The very tokens the model reads: given tokenised rows, TRL adds and cuts nothing."""
    return {
        f"{side}_ids": tokenizer(pair["prompt"] + pair[side])["input_ids"]
        + [tokenizer.eos_token_id]
        for side in ("chosen", "rejected")
    }


def _split(rows: list[dict[str, list[int]]], heldout_share: float) -> tuple[list, list]:
    cut = len(rows) - round(heldout_share * len(rows))
    if not 0 < cut < len(rows):
        raise InputError(
            f"{len(rows)} preference pairs that fit max_length cannot be split into training and "
            f"held-out pairs with heldout_share={heldout_share}: give more pairs"
        )
    return rows[:cut], rows[cut:]


def _dataset(rows: list[dict[str, list[int]]]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_list(rows)


def _training_arguments(
    scratch: str, learning_rate: float, epochs: float, batch_size: int, center: float, seed: int
) -> RewardConfig:
    import torch
    from trl.trainer.reward_config import RewardConfig

    on_cpu = not torch.cuda.is_available()
    return RewardConfig(
        output_dir=scratch,
        learning_rate=learning_rate,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        lr_scheduler_type="linear",
        warmup_steps=10,
        center_rewards_coefficient=center,
        max_length=None,
        seed=seed,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _accuracy(trainer: Any, rows: list[dict[str, list[int]]], batch_size: int) -> float:
    import torch

    model = trainer.model.eval()
    wins = 0
    for start in range(0, len(rows), batch_size):
        batch = trainer.data_collator(rows[start : start + batch_size])
        with torch.inference_mode():
            logits = model(**{name: ids.to(model.device) for name, ids in batch.items()}).logits
        chosen, rejected = logits.squeeze(-1).chunk(2)
        wins += int((chosen > rejected).sum())
    return wins / len(rows)


def _save(model: Any, tokenizer: PreTrainedTokenizerBase, out_dir: str | Path) -> None:
    tokenizer.chat_template = tokenizer.chat_template or CONTINUATION_TEMPLATE
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
